#include "iabn/train/run_log.h"

#include <cerrno>
#include <cmath>
#include <cstring>
#include <ctime>

#include <ATen/ATen.h>
#include <torch/nn/module.h>

#include "iabn/io/tensorboard.h"
#include "iabn/train/atomic_file.h"

namespace iabn::train {

RunLog::RunLog(const std::filesystem::path& folder, int64_t rank, int64_t print_frequency)
    : folder_(folder), quiet_(rank != 0), progress_(stdout, print_frequency) {
  const std::filesystem::path path = folder / ("rank" + std::to_string(rank) + ".log");
  file_ = std::fopen(path.c_str(), "a");
  if (file_ == nullptr) throw FileError(path.string() + ": cannot be written: " + std::strerror(errno));
}

RunLog::~RunLog() { std::fclose(file_); }

void RunLog::print(const std::string& line) {
  if (line.empty()) return;
  if (!quiet_) progress_.print(line);
  const std::time_t now = std::time(nullptr);
  std::tm local{};
  char stamp[32];
  std::strftime(stamp, sizeof stamp, "%Y-%m-%d %H:%M:%S", ::localtime_r(&now, &local));
  std::fprintf(file_, "%s  %s\n", stamp, line.c_str());
  std::fflush(file_);
}

// A run is worth more than its curves: where they can't be written it goes on without.
template <class Write>
void RunLog::to_tensorboard(Write&& write) {
  if (!events_) return;
  try {
    write(*events_);
  } catch (const io::EventFileError& error) {
    events_.reset();
    print(std::string("no more figures for TensorBoard: ") + error.what());
  }
}

void RunLog::open_tensorboard(int64_t step) {
  events_ = std::make_unique<io::EventWriter>(folder_);
  if (step > 0) to_tensorboard([&](io::EventWriter& events) { events.start_at(step); });
}

void RunLog::metrics(const char* split, int64_t step, const Metrics& metrics) {
  to_tensorboard([&](io::EventWriter& events) {
    const std::string prefix = std::string(split) + "/";
    for (const auto& [name, value] : named_values(metrics)) events.add_scalar(prefix + name, step, value);
  });
}

void RunLog::evaluation(int64_t step, const Evaluation& evaluation) {
  metrics("val", step, evaluation.metrics);
  to_tensorboard([&](io::EventWriter& events) {
    for (const ClassResult& result : evaluation.classes) {
      if (std::isfinite(result.iou)) events.add_scalar("val/iou/" + result.name, step, result.iou);
    }
    for (const Picture& picture : evaluation.pictures) {
      events.add_image("val/picture/" + picture.name, step, picture.png);
    }
  });
}

void RunLog::learning_rate(int64_t step, double rate) {
  to_tensorboard([&](io::EventWriter& events) { events.add_scalar("train/lr", step, rate); });
}

void RunLog::weight_histograms(int64_t step, const torch::nn::Module& network) {
  for (const auto& item : network.named_parameters()) {
    const at::Tensor values = item.value().detach().to(at::kCPU, at::kFloat).contiguous();
    const std::span floats(values.const_data_ptr<float>(), static_cast<size_t>(values.numel()));
    to_tensorboard([&](io::EventWriter& events) { events.add_histogram("weights/" + item.key(), step, floats); });
  }
}

}  // namespace iabn::train
