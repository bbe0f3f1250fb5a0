#pragma once

// What a run says: lines for people and figures for TensorBoard.

#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <span>
#include <string>

#include "iabn/train/evaluation.h"
#include "iabn/train/metrics.h"
#include "iabn/train/progress.h"

namespace iabn::io {
class EventWriter;
}
namespace torch::nn {
class Module;
}

namespace iabn::train {

class RunLog {
 public:
  /// Lines go to stdout (of rank 0) and, with the time, to the end of folder/rank<rank>.log. Throws FileError.
  RunLog(const std::filesystem::path& folder, int64_t rank, int64_t print_frequency);
  ~RunLog();

  /// A line to stay; nothing where it is empty.
  void print(const std::string& line);
  Progress& progress() { return progress_; }

  /// From here on figures go to TensorBoard, too: train/loss, train/top1, val/... over the run's steps. A
  /// resumed run replaces what an earlier one wrote of steps from `step` on. Throws io::EventFileError; what fails
  /// later is said once, and the figures end there.
  void open_tensorboard(int64_t step);
  /// split: "train" or "val".
  void metrics(const char* split, int64_t step, const Metrics& metrics);
  /// As metrics("val", ...), and the evaluation's classes as val/iou/NAME, its pictures as val/picture/NAME.
  void evaluation(int64_t step, const Evaluation& evaluation);
  void learning_rate(int64_t step, double rate);
  /// The distribution of every parameter, as weights/NAME.
  void weight_histograms(int64_t step, const torch::nn::Module& network);

 private:
  template <class Write>
  void to_tensorboard(Write&& write);

  std::filesystem::path folder_;
  bool quiet_;
  Progress progress_;
  std::FILE* file_ = nullptr;
  std::unique_ptr<io::EventWriter> events_;
};

}  // namespace iabn::train
