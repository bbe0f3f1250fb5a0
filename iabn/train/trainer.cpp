#include "iabn/train/trainer.h"

#include <algorithm>
#include <cmath>
#include <csignal>
#include <cstdio>
#include <memory>
#include <set>
#include <utility>

#include <ATen/ATen.h>

#include "iabn/data/error.h"
#include "iabn/data/loader.h"
#include "iabn/models/network.h"
#include "iabn/train/agreement.h"
#include "iabn/train/atomic_file.h"
#include "iabn/train/build.h"
#include "iabn/train/clock.h"
#include "iabn/train/csv_log.h"
#include "iabn/train/device.h"
#include "iabn/train/device_loader.h"
#include "iabn/train/distributed.h"
#include "iabn/train/interrupt.h"
#include "iabn/train/job.h"
#include "iabn/train/run_folder.h"
#include "iabn/train/run_log.h"
#include "iabn/train/schedule.h"
#include "iabn/train/snapshot.h"
#include "iabn/train/step.h"
#include "iabn/train/step_trace.h"
#include "iabn/train/task.h"
#include "iabn/train/weights.h"

namespace iabn::train {
namespace {

namespace fs = std::filesystem;

// In TensorBoard: so many of each of about so many evaluations of a run.
constexpr int64_t kPictures = 3, kPicturedEvaluations = 10;

EvaluationOptions evaluation_options(const Config& config, const TrainOptions& options, const World& world) {
  EvaluationOptions result;
  result.data = options.data;
  result.batch_size = config.optimizer.batch_size / world.size;
  result.workers = options.workers;
  result.skip_corrupt = options.skip_corrupt;
  return result;
}

// One run: the objects that training, evaluation and snapshots share.
class Run {
 public:
  Run(const Config& config, const TrainOptions& options, const World& world);
  TrainResult train();
  TrainResult evaluate_only();

 private:
  void resume();
  void describe();
  void set_scores(TrainResult& result) const;
  bool run_epoch(Metrics& train, Evaluation& val);
  void train_epoch();
  void train_step(const DeviceBatch& batch);
  bool evaluate(Evaluation& result);
  [[noreturn]] void stop_for(const data::DataError& error);
  void finish_epoch(const Metrics& train, const Evaluation& val);
  void report_skipped();
  // Before the first step a snapshot would only stand in the way of a repaired configuration.
  bool worth_saving() const { return resume_from_ || total_steps() > 0; }
  void save(const char* name);
  void check_finite(double loss, const char* what = "loss") const;
  [[noreturn]] void fail_diverged(const std::string& symptom) const;
  ProgressState progress_state(const Metrics& metrics, int64_t steps_done, double seconds) const;
  int64_t train_images() const { return train_loader_.samples().size() / config_.input.repeat_train; }
  int64_t total_steps() const { return state_.epoch * train_loader_.batches() + state_.step; }
  fs::path checkpoint_path() const { return options_.log_dir / kCheckpointName; }
  SnapshotParts parts() { return {config_, *network_, step_, *meter_, device_, evaluator_->classes()}; }

  const Config& config_;
  const TrainOptions& options_;
  const World& world_;
  c10::Device device_;
  std::unique_ptr<const Task> task_;
  data::Loader train_loader_;
  DeviceLoader train_data_;
  std::unique_ptr<Evaluator> evaluator_;
  std::optional<fs::path> resume_from_;
  std::shared_ptr<models::Network> network_;
  std::vector<std::string> notes_;
  std::unique_ptr<Meter> meter_;
  TrainStep step_;
  RunLog log_;
  RunState state_;
  Agreement agreement_;
  StepTrace trace_;
  std::unique_ptr<CsvLog> csv_;
  double last_evaluation_seconds_ = 0;
  Metrics last_evaluation_;
  std::set<std::string> skipped_;  // texts that have been printed
};

Run::Run(const Config& config, const TrainOptions& options, const World& world)
    : config_(config),
      options_(options),
      world_(world),
      device_(prepare_device(config, world_.device_name(options.device))),
      task_(make_task(config)),
      train_loader_(epoch_samples(*task_, config, options.data),
                    train_loader_options(config, world_, device_, options.workers, options.skip_corrupt)),
      train_data_(train_loader_, device_),
      evaluator_(task_->evaluator(evaluation_options(config, options, world_), world_, device_)),
      resume_from_(snapshot_to_resume(checkpoint_path(), options.resume, options.resume_auto)),
      network_(build_network(config, device_)),
      notes_(options.body && !resume_from_ ? load_body(*options.body, *network_, config, options.body_gamma)
                                           : std::vector<std::string>()),
      meter_(task_->meter(device_)),
      step_(config, *network_, *meter_, device_, world_),
      log_(made_folder(options.log_dir), world_.rank, options.print_frequency),
      agreement_(world_, options.snapshot_minutes),
      trace_(options.log_dir / ("trace_rank" + std::to_string(world_.rank) + ".json"), options.trace_steps, device_) {
  if (resume_from_) resume();
  check_same_job(world_,
                 {to_json(config).dump(), resume_from_.has_value(), state_, train_images(), evaluator_->images()});
  share_state(world_, parts(), state_);
  if (options_.evaluate_only) return;
  notes_.push_back(connect_layers(config, world_, device_));
  check_run_folder(checkpoint_path(), resume_from_);
  state_.train_images = train_images();
  world_.any(false);  // nobody writes before all have looked
  if (!world_.first()) return;
  csv_ = std::make_unique<CsvLog>(options_.log_dir / "log.csv", task_->columns(), state_.epoch);
  log_.open_tensorboard(total_steps());
}

void Run::resume() {
  std::vector<std::string> differences;
  state_ = load_snapshot(*resume_from_, parts(), options_.any_config, &differences);
  for (const std::string& difference : differences) log_.print("another configuration: " + difference);
  if (options_.evaluate_only) return;
  if (!differences.empty() && state_.step > 0) {
    // Another batch size or seed gives another order: the step says nothing about it.
    log_.print("beginning epoch " + std::to_string(state_.epoch + 1) + " again");
    state_.step = 0;
    state_.epoch_seconds = 0;
    meter_->reset();
  }
  check_same_data(*resume_from_, state_, train_images(), train_loader_.batches());
}

void Run::describe() {
  int64_t weights = 0;
  for (const auto& parameter : network_->parameters()) weights += parameter.numel();
  log_.print(config_.network.arch + " (" + config_.network.bn_mode + ", " + config_.network.activation + ", " +
             config_.precision + ", " + std::to_string(weights) + " weights) on " + device_.str() + ", " +
             std::to_string(train_images()) + " training and " + std::to_string(evaluator_->images()) +
             " validation images");
  log_.print(train_loader_.samples().note());
  log_.print(evaluator_->note());
  for (const std::string& note : notes_) log_.print(note);
}

TrainResult Run::train() {
  describe();
  const int64_t epochs = config_.optimizer.schedule.epochs;
  TrainResult result;
  result.nothing_to_do = state_.epoch >= epochs;
  if (result.nothing_to_do) {
    log_.print("nothing to do: " + std::to_string(state_.epoch) + " of " + std::to_string(epochs) +
               " epochs are done; give more with --epochs");
  } else if (resume_from_) {
    log_.print("continuing after epoch " + std::to_string(state_.epoch) + ", step " + std::to_string(state_.step));
  }
  while (state_.epoch < epochs && result.interrupted_by == 0) {
    Metrics train;
    Evaluation val;
    if (run_epoch(train, val)) {
      finish_epoch(train, val);
    } else {
      result.interrupted_by = pending_interrupt() != 0 ? pending_interrupt() : SIGTERM;
      if (worth_saving()) save(kCheckpointName);
      world_.any(false);  // a process that ends first would have the launcher stop rank 0
    }
  }
  set_scores(result);
  return result;
}

void Run::set_scores(TrainResult& result) const {
  result.first_process = world_.first();
  result.best_score = state_.best_score;
  result.score_label = meter_->values().percents.front().label;
  if (!last_evaluation_.percents.empty()) result.score = last_evaluation_.score();  // else it was complete already
}

TrainResult Run::evaluate_only() {
  describe();
  TrainResult result;
  Evaluation val;
  if (!evaluate(val)) {
    result.interrupted_by = pending_interrupt();
    return result;
  }
  log_.print("val " + to_text(val.metrics) + " (" + std::to_string(val.metrics.images) + " images), weights of epoch " +
             std::to_string(state_.epoch));
  report_skipped();
  set_scores(result);
  return result;
}

// False where it was interrupted.
bool Run::run_epoch(Metrics& train, Evaluation& val) {
  const Clock clock;
  const double before = state_.epoch_seconds;
  bool complete = false;
  try {
    train_epoch();
    train = meter_->values(world_.group);
    check_finite(train.loss);
    complete = !agreement_.stop_now();
    // Several processes can't stop in an evaluation together, and one of whole pictures may fail: what is trained is
    // safe before it.
    state_.epoch_seconds = before + clock.seconds();
    if (complete && (world_.group || evaluator_->whole_pictures())) save(kCheckpointName);
    complete = complete && evaluate(val);
  } catch (const data::DataError& error) {
    state_.epoch_seconds = before + clock.seconds();
    stop_for(error);
  }
  state_.epoch_seconds = before + clock.seconds();
  return complete;
}

// Met between two steps: the state is whole; but of several processes the others, who hold part of it, are not asked.
void Run::stop_for(const data::DataError& error) {
  if (!world_.group && worth_saving()) save(kCheckpointName);
  const bool corrupt = dynamic_cast<const data::DecodeError*>(&error) != nullptr;
  const auto from = fs::exists(checkpoint_path()) ? std::optional(checkpoint_path()) : resume_from_;
  throw data::DataError("training stopped", error.what(),
                        (!from          ? "no step is saved yet"
                         : world_.group ? "the last snapshot stays"
                                        : "state saved in " + from->string()) +
                            "; repair or replace the file" + (corrupt ? " (or add --skip-corrupt)" : "") + ", then " +
                            (from ? "continue with --resume " + from->string() : "start again"));
}

void Run::train_epoch() {
  network_->train();
  const Clock clock;
  const int64_t first = state_.step;
  const double seconds_before = state_.epoch_seconds;
  if (first == train_loader_.batches()) return;  // interrupted in the evaluation: only that is left
  train_data_.start_epoch(state_.epoch, first);
  while (!agreement_.stop(state_.step)) {
    const auto batch = train_data_.next();
    if (!batch) break;
    train_step(*batch);
    ++state_.step;
    agreement_.step_done();
    trace_.step_done();
    // The epoch's last step is logged at its end.
    const bool log_step = state_.step % options_.print_frequency == 0 && state_.step < train_loader_.batches();
    const bool draw = log_.progress().due(state_.step);
    if (world_.first() && (log_step || draw)) {
      const Metrics metrics = meter_->values();
      check_finite(metrics.loss);
      if (draw) log_.progress().draw(progress_state(metrics, state_.step - first, clock.seconds()));
      if (log_step) log_.metrics("train", total_steps(), metrics);
      if (log_step) log_.learning_rate(total_steps(), step_.optimizer().learning_rate());
    }
    if (agreement_.snapshot_due(state_.step)) {
      state_.epoch_seconds = seconds_before + clock.seconds();
      save(kCheckpointName);
      state_.epoch_seconds = seconds_before;
    }
    train_data_.prefetch();
  }
}

void Run::train_step(const DeviceBatch& batch) {
  step_.optimizer().scale_learning_rates(
      schedule_factor(config_.optimizer.schedule, {state_.epoch, total_steps(), train_loader_.batches()}));
  const at::Tensor& loss = step_(batch.images, batch.labels);
  // Reading the loss waits for a GPU, so there it is looked at with the sums only.
  if (device_.is_cpu()) check_finite(loss.item<double>());
}

// False where it was interrupted.
bool Run::evaluate(Evaluation& result) {
  const Clock clock;
  share_statistics(world_, parts());  // all evaluate with those that the snapshot will hold
  const UseAverages averages(step_.averages());
  const int64_t epochs = config_.optimizer.schedule.epochs, left = epochs - state_.epoch - 1;
  const bool pictured = csv_ && left % std::max<int64_t>(1, epochs / kPicturedEvaluations) == 0;
  const auto stop = [&] { return !world_.group && pending_interrupt() != 0; };
  auto evaluation = evaluator_->evaluate(*network_, stop, pictured ? kPictures : 0);
  if (!evaluation) return false;
  result = std::move(*evaluation);
  last_evaluation_ = result.metrics;
  check_finite(result.metrics.loss, "validation loss");
  if (result.not_finite > 0) {
    fail_diverged("the scores of " + std::to_string(result.not_finite) + " validation images are no numbers");
  }
  last_evaluation_seconds_ = clock.seconds();
  return true;
}

void Run::finish_epoch(const Metrics& train, const Evaluation& val) {
  const double rate = step_.optimizer().learning_rate();
  const int64_t step = total_steps();
  ++state_.epoch;
  state_.step = 0;
  if (csv_) csv_->append({state_.epoch, train, val.metrics, rate, state_.epoch_seconds});
  log_.metrics("train", step, train);
  log_.evaluation(step, val);
  log_.learning_rate(step, rate);
  if (options_.weight_histograms) log_.weight_histograms(step, *network_);
  char end[80];
  std::snprintf(end, sizeof end, ", lr %.4g, %.1f s", rate, state_.epoch_seconds);
  log_.print("epoch " + std::to_string(state_.epoch) + "/" + std::to_string(config_.optimizer.schedule.epochs) +
             ": train " + to_text(train, /*brief=*/true) + ", val " + to_text(val.metrics) + end);
  report_skipped();
  const bool best = val.metrics.score() > state_.best_score;
  state_.best_score = std::max(state_.best_score, val.metrics.score());
  state_.epoch_seconds = 0;
  meter_->reset();
  // A crash between the two repeats the epoch, which writes the best again; the other order could lose it.
  if (best) save(kBestName);
  save(kCheckpointName);
}

void Run::report_skipped() {
  if (!options_.skip_corrupt) return;
  std::vector<std::string> own = train_loader_.skipped();
  for (std::string& text : evaluator_->skipped()) own.push_back(std::move(text));
  for (const std::string& text : world_.gather(own)) {
    if (skipped_.insert(text).second) log_.print("skipped " + text);
  }
  if (!skipped_.empty()) log_.print("corrupt images skipped so far: " + std::to_string(skipped_.size()));
}

// A collective.
void Run::save(const char* name) {
  if (!all_finite(parts())) fail_diverged("a weight or a running statistic is not finite");
  const MeterSums metrics = meter_->total(world_.group);
  agreement_.saved();
  if (world_.first()) replace_file(options_.log_dir / name, snapshot_bytes(parts(), state_, metrics));
}

void Run::check_finite(double loss, const char* what) const {
  if (!std::isfinite(loss)) fail_diverged(std::string("the ") + what + " is " + std::to_string(loss));
}

void Run::fail_diverged(const std::string& symptom) const {
  throw DivergedError(symptom + " in epoch " + std::to_string(state_.epoch + 1) + ", after " +
                      std::to_string(state_.step) +
                      " steps: training has diverged; lower optimizer.learning_rate or set optimizer.clip" +
                      (fs::exists(checkpoint_path()) ? ". The snapshots' weights are finite" : ""));
}

ProgressState Run::progress_state(const Metrics& metrics, int64_t steps_done, double seconds) const {
  const int64_t steps = train_loader_.batches(), epochs = config_.optimizer.schedule.epochs;
  const int64_t epochs_after = epochs - state_.epoch - 1;
  const double per_step = seconds / static_cast<double>(steps_done);
  ProgressState progress;
  progress.epoch = state_.epoch + 1;
  progress.epochs = epochs;
  progress.step = state_.step;
  progress.steps = steps;
  progress.images_per_second = static_cast<double>(config_.optimizer.batch_size) / per_step;
  progress.seconds_left = per_step * static_cast<double>(steps - state_.step + epochs_after * steps) +
                          last_evaluation_seconds_ * static_cast<double>(epochs_after + 1);
  progress.wait_share = std::min(1.0, train_loader_.wait_seconds() / seconds);
  progress.loss = metrics.loss;
  progress.score = metrics.score();
  progress.measure = metrics.percents.front().label;
  return progress;
}

}  // namespace

TrainResult train(const Config& config, const TrainOptions& options) {
  if (options.evaluate_only) check_evaluable(options.log_dir / kCheckpointName, options.resume, options.resume_auto);
  if (options.body && options.resume) {
    throw std::invalid_argument("--body " + options.body->string() + " together with --resume " +
                                options.resume->string() + ": the snapshot holds all weights; leave out one of them");
  }
  if (!options.evaluate_only) check_trainable(config);
  const World world = join_world(choose_device(options.device).type(), kDefaultTimeout, nccl_blocks(config));
  nn::set_process_group(world.group);
  const TrainResult result = world.run([&] {
    Run run(config, options, world);
    return world.run([&] { return options.evaluate_only ? run.evaluate_only() : run.train(); });
  });
  world.leave();
  return result;
}

}  // namespace iabn::train
