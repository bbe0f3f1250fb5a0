#include "iabn/train/trainer.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <memory>
#include <set>

#include <ATen/ATen.h>

#include "iabn/data/error.h"
#include "iabn/data/loader.h"
#include "iabn/train/atomic_file.h"
#include "iabn/train/build.h"
#include "iabn/train/csv_log.h"
#include "iabn/train/device.h"
#include "iabn/train/interrupt.h"
#include "iabn/train/metrics.h"
#include "iabn/train/progress.h"
#include "iabn/train/schedule.h"
#include "iabn/train/snapshot.h"

namespace iabn::train {
namespace {

namespace fs = std::filesystem;

class Clock {
 public:
  double seconds() const { return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count(); }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

// One run: the objects that training, evaluation and snapshots share.
class Run {
 public:
  Run(const Config& config, const TrainOptions& options);
  TrainResult train();

 private:
  void open_data();
  void refuse_another_run(const fs::path& checkpoint) const;
  bool run_epoch(Metrics& train, Metrics& val);
  void train_epoch();
  void train_step(const data::Batch& batch, int64_t step);
  bool evaluate(Metrics& result);
  void finish_epoch(const Metrics& train, const Metrics& val);
  void report_skipped();
  void save(const char* name);
  void check_weights() const;
  void check_finite(double loss, const char* what = "loss") const;
  [[noreturn]] void fail_diverged(const std::string& symptom) const;
  ProgressState progress_state(int64_t steps_done, double seconds) const;
  at::Tensor to_device(const at::Tensor& tensor) const { return tensor.to(device_, /*non_blocking=*/true); }

  const Config& config_;
  const TrainOptions& options_;
  const OptimizerConfig& optimizer_config_ = config_.optimizer;
  c10::Device device_;
  std::unique_ptr<data::Loader> train_data_, val_data_;
  std::shared_ptr<models::Network> network_;
  TrainOptimizer optimizer_;
  MetricSums metrics_;
  RunState state_;
  Progress progress_;
  double last_evaluation_seconds_ = 0;
  double last_top1_ = 0;
  std::unique_ptr<CsvLog> log_;
  std::set<std::string> skipped_;  // texts that have been printed
};

Run::Run(const Config& config, const TrainOptions& options)
    : config_(config),
      options_(options),
      device_(choose_device(options.device)),
      network_(build_network(config, device_)),
      optimizer_(config.optimizer, *network_),
      metrics_(device_),
      progress_(stdout, options.print_frequency) {
  open_data();
  const fs::path checkpoint = options_.log_dir / "checkpoint.pt";
  std::error_code error;
  fs::create_directories(options_.log_dir, error);
  if (error) throw FileError("cannot make the folder " + options_.log_dir.string() + ": " + error.message());
  const int64_t train_images = train_data_->dataset().size();
  if (options_.resume) {
    state_ = load_snapshot(*options_.resume, config_, metrics_, *network_, optimizer_.impl(), device_);
    if (state_.train_images != train_images) {
      throw SnapshotError(options_.resume->string() + ": was trained on " + std::to_string(state_.train_images) +
                          " images, the folder holds " + std::to_string(train_images));
    }
  }
  if (fs::exists(checkpoint)) refuse_another_run(checkpoint);
  state_.train_images = train_images;
  log_ = std::make_unique<CsvLog>(options_.log_dir / "log.csv", state_.epoch);
}

void Run::refuse_another_run(const fs::path& checkpoint) const {
  if (!options_.resume) {
    throw SnapshotError(checkpoint.string() + " exists: add --resume " + checkpoint.string() +
                        " to continue that run, or choose another --log-dir");
  }
  const fs::path folder = folder_of(*options_.resume);
  if (fs::equivalent(folder, folder_of(checkpoint))) return;
  throw SnapshotError(checkpoint.string() + " exists and may belong to another run than " + options_.resume->string() +
                      ": continue that one with --log-dir " + folder.string() + ", or choose a new --log-dir");
}

void Run::open_data() {
  const auto train_set = data::open_dataset(options_.data, data::Split::train, config_.input);
  const auto val_set = data::open_dataset(options_.data, data::Split::val, config_.input);
  const auto classes = static_cast<int64_t>(train_set->classes().size());
  if (classes != config_.network.classes) {
    throw ConfigError("network.classes: is " + std::to_string(config_.network.classes) + ", but " +
                      options_.data.string() + " has " + std::to_string(classes) + " classes");
  }
  data::LoaderOptions loader;
  loader.batch_size = optimizer_config_.batch_size;
  loader.workers = options_.workers;
  loader.seed = static_cast<uint64_t>(config_.seed);
  loader.channels_last = config_.channels_last;
  loader.pinned = device_.is_cuda();
  loader.skip_corrupt = options_.skip_corrupt;
  train_data_ = std::make_unique<data::Loader>(train_set, config_.input, data::Split::train, loader);
  auto val_loader = data::LoaderOptions::for_validation(optimizer_config_.batch_size, options_.workers);
  val_loader.channels_last = loader.channels_last;
  val_loader.pinned = loader.pinned;
  val_loader.skip_corrupt = loader.skip_corrupt;
  val_data_ = std::make_unique<data::Loader>(val_set, config_.input, data::Split::val, val_loader);
}

TrainResult Run::train() {
  const InterruptGuard interrupts;
  int64_t weights = 0;
  for (const auto& parameter : network_->parameters()) weights += parameter.numel();
  progress_.print(config_.network.arch + " (" + config_.network.bn_mode + ", " + config_.network.activation + ", " +
                  std::to_string(weights) + " weights) on " + device_.str() + ", " +
                  std::to_string(state_.train_images) + " training and " + std::to_string(val_data_->dataset().size()) +
                  " validation images");
  if (options_.resume) {
    progress_.print("continuing after epoch " + std::to_string(state_.epoch) + ", step " + std::to_string(state_.step));
  }
  TrainResult result;
  while (state_.epoch < optimizer_config_.schedule.epochs && result.interrupted_by == 0) {
    Metrics train, val;
    if (run_epoch(train, val)) {
      finish_epoch(train, val);
    } else {
      result.interrupted_by = pending_interrupt();
      save("checkpoint.pt");
    }
  }
  result.top1 = last_top1_;
  result.best_top1 = state_.best_top1;
  return result;
}

// False where it was interrupted.
bool Run::run_epoch(Metrics& train, Metrics& val) {
  const Clock clock;
  const double before = state_.epoch_seconds;
  bool complete = false;
  try {
    train_epoch();
    train = metrics_.values();
    check_finite(train.loss);
    complete = pending_interrupt() == 0 && evaluate(val);
  } catch (const data::DataError& error) {  // met between two steps: the state is whole
    state_.epoch_seconds = before + clock.seconds();
    save("checkpoint.pt");
    const std::string path = (options_.log_dir / "checkpoint.pt").string();
    const bool corrupt = dynamic_cast<const data::DecodeError*>(&error) != nullptr;
    throw data::DataError("training stopped", error.what(),
                          "state saved in " + path + "; repair or replace the file" +
                              (corrupt ? " (or add --skip-corrupt)" : "") + ", then continue with --resume " + path);
  }
  state_.epoch_seconds = before + clock.seconds();
  return complete;
}

void Run::train_epoch() {
  network_->train();
  const Clock clock;
  const int64_t first = state_.step;
  if (first == train_data_->batches()) return;  // interrupted in the evaluation: only that is left
  train_data_->start_epoch(state_.epoch, first);
  while (pending_interrupt() == 0) {
    const auto batch = train_data_->next();
    if (!batch) break;
    train_step(*batch, state_.epoch * train_data_->batches() + state_.step);
    ++state_.step;
    if (progress_.due(state_.step)) progress_.draw(progress_state(state_.step - first, clock.seconds()));
  }
}

void Run::train_step(const data::Batch& batch, int64_t step) {
  optimizer_.scale_learning_rates(schedule_factor(optimizer_config_.schedule, state_.epoch, step));
  const at::Tensor labels = to_device(batch.labels);
  optimizer_.zero_grad();
  const at::Tensor logits = network_->forward(to_device(batch.images));
  const at::Tensor loss = at::cross_entropy_loss(logits, labels);
  // Reading the loss waits for a GPU, so there it is looked at with the sums only.
  if (device_.is_cpu()) check_finite(loss.item<double>());
  loss.backward();
  optimizer_.step();
  metrics_.add(loss, logits, labels);
}

// False where it was interrupted.
bool Run::evaluate(Metrics& result) {
  const at::NoGradGuard no_grad;
  const Clock clock;
  network_->eval();
  MetricSums sums(device_);
  val_data_->start_epoch(0);
  while (const auto batch = val_data_->next()) {
    if (pending_interrupt() != 0) return false;
    const at::Tensor labels = to_device(batch->labels);
    const at::Tensor logits = network_->forward(to_device(batch->images));
    sums.add(at::cross_entropy_loss(logits, labels), logits, labels);
  }
  result = sums.values();
  check_finite(result.loss, "validation loss");
  last_evaluation_seconds_ = clock.seconds();
  return true;
}

void Run::finish_epoch(const Metrics& train, const Metrics& val) {
  ++state_.epoch;
  log_->append({state_.epoch, train, val, optimizer_.learning_rate(), state_.epoch_seconds});
  char line[256];
  std::snprintf(line, sizeof line,
                "epoch %d/%d: train loss %.4f top1 %.2f %%, val loss %.4f top1 %.2f %% top5 %.2f %%, lr %.4g, %.1f s",
                static_cast<int>(state_.epoch), static_cast<int>(optimizer_config_.schedule.epochs), train.loss,
                train.top1, val.loss, val.top1, val.top5, optimizer_.learning_rate(), state_.epoch_seconds);
  progress_.print(line);
  report_skipped();
  last_top1_ = val.top1;
  const bool best = val.top1 > state_.best_top1;
  state_.best_top1 = std::max(state_.best_top1, val.top1);
  state_.step = 0;
  state_.epoch_seconds = 0;
  metrics_ = MetricSums(device_);
  // A crash between the two repeats the epoch, which writes best.pt again; the other order could lose it.
  if (best) save("best.pt");
  save("checkpoint.pt");
}

void Run::report_skipped() {
  for (const auto* loader : {train_data_.get(), val_data_.get()}) {
    for (const std::string& text : loader->skipped()) {
      if (skipped_.insert(text).second) progress_.print("skipped " + text);
    }
  }
  if (!skipped_.empty()) progress_.print("corrupt images skipped so far: " + std::to_string(skipped_.size()));
}

void Run::save(const char* name) {
  check_weights();
  replace_file(options_.log_dir / name,
               snapshot_bytes(config_, state_, metrics_, *network_, optimizer_.impl(), device_));
}

// With the running statistics. One sum in double, which finite floats cannot overflow, and one wait for a GPU.
void Run::check_weights() const {
  const at::NoGradGuard no_grad;
  at::Tensor sum = at::zeros({}, at::TensorOptions(at::kDouble).device(device_));
  for (const auto& parameter : network_->parameters()) sum += parameter.sum(at::kDouble);
  for (const auto& buffer : network_->buffers()) sum += buffer.sum(at::kDouble);
  if (!std::isfinite(sum.item<double>())) fail_diverged("a weight or a running statistic is not finite");
}

void Run::check_finite(double loss, const char* what) const {
  if (!std::isfinite(loss)) fail_diverged(std::string("the ") + what + " is " + std::to_string(loss));
}

void Run::fail_diverged(const std::string& symptom) const {
  throw DivergedError(symptom + " in epoch " + std::to_string(state_.epoch + 1) + ", after " +
                      std::to_string(state_.step) +
                      " steps: training has diverged; lower optimizer.learning_rate or set optimizer.clip" +
                      (fs::exists(options_.log_dir / "checkpoint.pt") ? ". The last snapshot is from before" : ""));
}

ProgressState Run::progress_state(int64_t steps_done, double seconds) const {
  const Metrics metrics = metrics_.values();
  check_finite(metrics.loss);
  const int64_t steps = train_data_->batches(), epochs = optimizer_config_.schedule.epochs;
  const int64_t epochs_after = epochs - state_.epoch - 1;
  const double per_step = seconds / static_cast<double>(steps_done);
  ProgressState progress;
  progress.epoch = state_.epoch + 1;
  progress.epochs = epochs;
  progress.step = state_.step;
  progress.steps = steps;
  progress.images_per_second = static_cast<double>(optimizer_config_.batch_size) / per_step;
  progress.seconds_left = per_step * static_cast<double>(steps - state_.step + epochs_after * steps) +
                          last_evaluation_seconds_ * static_cast<double>(epochs_after + 1);
  progress.wait_share = std::min(1.0, train_data_->wait_seconds() / seconds);
  progress.loss = metrics.loss;
  progress.top1 = metrics.top1;
  return progress;
}

}  // namespace

TrainResult train(const Config& config, const TrainOptions& options) { return Run(config, options).train(); }

}  // namespace iabn::train
