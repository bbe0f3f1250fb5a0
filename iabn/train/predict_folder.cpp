#include "iabn/train/predict_folder.h"

#include <algorithm>
#include <chrono>
#include <cinttypes>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <memory>
#include <utility>

#include <ATen/ATen.h>

#include "iabn/data/worker_pool.h"
#include "iabn/io/checkpoint.h"
#include "iabn/models/network.h"
#include "iabn/segmentation/predictor.h"
#include "iabn/train/build.h"
#include "iabn/train/distributed.h"
#include "iabn/train/interrupt.h"
#include "iabn/train/memory_budget.h"
#include "iabn/train/precision.h"
#include "iabn/train/predict_picture.h"
#include "iabn/train/progress.h"
#include "iabn/train/segmentation_snapshot.h"

namespace iabn::train {
namespace {

using Clock = std::chrono::steady_clock;
using segmentation::Predictor;

// A line every ten seconds.
class Meter {
 public:
  Meter(bool prints, size_t pictures) : prints_(prints), pictures_(pictures) {}
  double seconds() const { return std::chrono::duration<double>(Clock::now() - start_).count(); }
  void count() {
    ++done_;
    if (!prints_ || Clock::now() < next_) return;
    next_ = Clock::now() + std::chrono::seconds(10);
    const double rate = static_cast<double>(done_) / seconds();
    std::printf("%zu/%zu | %.2f pictures/s | %s left\n", done_, pictures_, rate,
                duration(static_cast<double>(pictures_ - done_) / rate).c_str());
    std::fflush(stdout);
  }

 private:
  bool prints_;
  size_t pictures_, done_ = 0;
  Clock::time_point start_ = Clock::now(), next_ = start_ + std::chrono::seconds(10);
};

// Of pictures that are read ahead, predicted and written; a single one may need more.
constexpr int64_t kHostBytes = int64_t{1} << 30;

// Pictures are read ahead of the network and written behind it, by the same threads.
class Pipeline {
 public:
  Pipeline(const Predictor& predictor, c10::Device device, std::vector<segmentation::Color> colors, int64_t workers)
      : predictor_(predictor), device_(device), colors_(std::move(colors)), pool_(workers) {}

  /// Counts written and bad ones in `report`; calls on_done after each. Throws Interrupted where `interruptible`.
  /// Whatever it throws, the pictures that the network has seen are written before.
  template <class OnDone>
  void run(const std::vector<PictureFiles>& pictures, OutputMode mode, bool interruptible, PredictReport& report,
           const OnDone& on_done) {
    try {
      predict(pictures, mode, interruptible, report, on_done);
    } catch (...) {
      save_what_is_done(report);
      throw;
    }
  }

 private:
  struct Stage {
    std::shared_ptr<PredictPicture> picture;
    std::shared_ptr<data::WorkerPool::Job> job;
    std::shared_ptr<bool> is_read;  // false: there was no memory for it yet
  };

  template <class OnDone>
  void predict(const std::vector<PictureFiles>& pictures, OutputMode mode, bool interruptible, PredictReport& report,
               const OnDone& on_done) {
    for (size_t next = 0;;) {
      for (; next < pictures.size() && ahead_.size() <= depth(); ++next) start_reading(pictures[next], mode);
      if (ahead_.empty()) break;
      Stage current = std::move(ahead_.front());
      ahead_.pop_front();
      pool_.wait(current.job);
      if (!*current.is_read) {
        finish_device(report, on_done);
        wait_for_writers(0, report);
        pool_.wait(pool_.submit(1, [&](int64_t) { current.picture->read(predictor_, memory_, /*forced=*/true); }));
      }
      if (interruptible && pending_interrupt() != 0) throw Interrupted(pending_interrupt());
      if (current.picture->error().empty()) {
        current.picture->predict(predictor_, device_);
        if (current.picture->error().empty()) std::swap(current, on_device_);
      }
      if (!current.picture) continue;  // nothing was on the device before
      end(current, report);
      on_done();
    }
    finish_device(report, on_done);
    wait_for_writers(0, report);
  }

  template <class OnDone>
  void finish_device(PredictReport& report, const OnDone& on_done) {
    if (!on_device_.picture) return;
    end(std::exchange(on_device_, {}), report);
    on_done();
  }

  size_t depth() const { return static_cast<size_t>(pool_.threads()); }

  void start_reading(const PictureFiles& files, OutputMode mode) {
    auto picture = std::make_shared<PredictPicture>(files, mode);
    auto is_read = std::make_shared<bool>();
    const auto read = [this, picture, is_read](int64_t) { *is_read = picture->read(predictor_, memory_, false); };
    ahead_.push_back({picture, pool_.submit(1, read), is_read});
  }

  // Of a picture that was read, and predicted where that went well.
  void end(const Stage& stage, PredictReport& report) {
    const auto picture = stage.picture;
    if (picture->error().empty()) picture->finish();
    if (!picture->error().empty()) return leave_out(*picture, report);
    behind_.push_back({picture, pool_.submit(1, [this, picture](int64_t) { picture->write(colors_); }), {}});
    wait_for_writers(depth(), report);
  }

  // Until no more than `left` are still to be written.
  void wait_for_writers(size_t left, PredictReport& report) {
    while (behind_.size() > left) {
      const Stage first = std::move(behind_.front());
      behind_.pop_front();
      pool_.wait(first.job);
      if (first.picture->error().empty()) {
        ++report.written;
      } else {
        leave_out(*first.picture, report);
      }
    }
  }

  static void leave_out(const PredictPicture& picture, PredictReport& report) {
    ++report.bad;
    std::fprintf(stderr, "bad picture, left out: %s\n", picture.error().c_str());
  }

  // While an exception passes, which is the one to be told of: further errors are not.
  void save_what_is_done(PredictReport& report) noexcept {
    try {
      if (on_device_.picture) end(std::exchange(on_device_, {}), report);
    } catch (const std::exception&) {
    }
    while (!behind_.empty()) {
      try {
        wait_for_writers(0, report);
      } catch (const std::exception&) {  // the next one may go well
      }
    }
  }

  const Predictor& predictor_;
  c10::Device device_;
  std::vector<segmentation::Color> colors_;
  MemoryBudget memory_{kHostBytes};
  std::deque<Stage> ahead_, behind_;
  Stage on_device_;        // one at a time: the next is queued on the GPU before the host waits for this one
  data::WorkerPool pool_;  // last: its threads end before what they use
};

at::ScalarType dtype_for(const PredictOptions& options, c10::Device device) {
  if (!options.precision.empty()) return precision_dtype(options.precision);
  return precision_dtype(device.is_cuda() ? "fp16" : "float32");
}

// With segments of fixed sizes PyTorch's allocator keeps those that pictures of other sizes cannot use.
void let_memory_grow() {
  if (std::getenv("PYTORCH_ALLOC_CONF") != nullptr) return;
  ::setenv("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True", /*overwrite=*/0);
}

// Autocast would make a copy of each weight for each picture, and keep the float32 one beside it.
void keep_convolutions_in(at::ScalarType dtype, models::Network& network) {
  for (torch::Tensor& parameter : network.parameters()) {
    if (parameter.dim() == 4) parameter.set_data(parameter.detach().to(dtype));
  }
}

segmentation::PredictorOptions predictor_options(const PredictOptions& options, const Config& config,
                                                 at::ScalarType dtype) {
  segmentation::PredictorOptions result;
  result.scales = options.scales;
  result.flip = options.flip;
  result.fusion = options.fusion;
  result.longest_side = options.longest_side.value_or(config.segmentation.longest_side);
  const int64_t window = config.segmentation.window;
  result.window = options.window.value_or(window == 0 ? segmentation::kAutomaticWindow : window);
  result.mean = config.input.mean;
  result.std = config.input.std;
  result.channels_last = config.channels_last;
  result.dtype = dtype;
  return result;
}

// The pictures of this process that are still to be done.
std::vector<PictureFiles> own_pictures(std::vector<PictureFiles> all, const World& world, bool overwrite,
                                       PredictReport& report) {
  std::vector<PictureFiles> result;
  for (PictureFiles& picture : all) {
    if (owner(picture, world.size) != world.rank) continue;
    ++report.pictures;
    if (!overwrite && picture.exist()) {
      ++report.skipped;
    } else {
      result.push_back(std::move(picture));
    }
  }
  return result;
}

// Sums over the processes. Where pictures differ, one may have to wait long for another.
PredictReport added_up(const World& world, const PredictReport& own) {
  if (!world.group) return own;
  try {
    const at::Tensor sums =
        world.sum(at::tensor({own.pictures, own.written, own.skipped, own.bad}, at::kLong), std::chrono::hours(24 * 7));
    const auto* sum = sums.const_data_ptr<int64_t>();
    return {sum[0], sum[1], sum[2], sum[3]};
  } catch (const std::exception&) {
    std::fprintf(stderr,
                 "rank %d of %d alone: %" PRId64 " pictures written, %" PRId64 " skipped, %" PRId64
                 " bad ones left out\n",
                 world.rank, world.size, own.written, own.skipped, own.bad);
    throw;
  }
}

void print(const PredictReport& report, const std::string& output, double seconds) {
  std::printf("%" PRId64 " pictures written to %s in %s", report.written, output.c_str(), duration(seconds).c_str());
  if (report.skipped > 0) {
    std::printf("; %" PRId64 " skipped, whose files were there (--overwrite does them again)", report.skipped);
  }
  if (report.bad > 0) std::printf("; %" PRId64 " bad ones left out", report.bad);
  std::printf("\n");
  std::fflush(stdout);
}

}  // namespace

PredictReport predict_folder(const PredictOptions& options) {
  let_memory_grow();
  const auto all = list_pictures(options.input, options.output, options.mode);
  io::Checkpoint checkpoint = io::load_checkpoint(options.snapshot);
  Config config = segmentation_config(checkpoint, options.snapshot, options.config);
  config.cuda_graph = false;                  // of training
  config.network.gamma = "signed";            // legacy weights are read as such
  const World world = join_world(c10::kCPU);  // the processes exchange nothing but counts
  const c10::Device device = prepare_device(config, world.device_name(options.device));
  // Each new size of picture would be timed anew.
  at::globalContext().setBenchmarkCuDNN(false);

  const at::ScalarType dtype = dtype_for(options, device);
  // Tensor cores want channels last, which cuDNN would otherwise make of every layer's input.
  if (device.is_cuda() && dtype != at::kFloat) config.channels_last = true;
  const auto network = build_network(config, device);
  WeightsOptions weights = options.weights;
  weights.bn_mode = config.network.bn_mode;
  for (const auto& note : load_weights(options.snapshot, std::move(checkpoint), *network, weights)) {
    if (world.first()) std::printf("%s\n", note.c_str());
  }
  keep_convolutions_in(dtype, *network);
  network->eval();
  const Predictor predictor(*network, predictor_options(options, config, dtype), device);

  PredictReport report;
  const auto own = own_pictures(all, world, options.overwrite, report);
  if (world.first()) {
    std::printf("%s, %" PRId64 " classes, on %s, %zu pictures\n", config.network.arch.c_str(), config.network.classes,
                device.str().c_str(), all.size());
    std::fflush(stdout);
  }
  std::optional<InterruptGuard> interrupts;  // of several processes, each may end at once
  if (!world.group) interrupts.emplace();
  Meter meter(world.first(), own.size());
  Pipeline(predictor, device, config.segmentation.colors, options.workers)
      .run(own, options.mode, interrupts.has_value(), report, [&] { meter.count(); });
  report = added_up(world, report);
  if (world.first()) print(report, options.output, meter.seconds());
  world.any(false);  // torchrun kills the others as soon as one has ended with exit code 3
  return report;
}

}  // namespace iabn::train
