#pragma once

// What happens during some training steps, on the CPU and on the GPU, NCCL's kernels included, as a file.

#include <cstdint>
#include <filesystem>

#include <c10/core/Device.h>

namespace iabn::train {

/// Records `steps` steps, 0 for none, after the first kBefore of this process, of which the first ones may choose
/// algorithms and capture a CUDA graph. Then writes `path` in Chrome's trace format (ui.perfetto.dev,
/// chrome://tracing). A run that ends before writes nothing.
class StepTrace {
 public:
  static constexpr int64_t kBefore = 10;

  StepTrace(std::filesystem::path path, int64_t steps, c10::Device device);
  StepTrace(const StepTrace&) = delete;
  StepTrace& operator=(const StepTrace&) = delete;
  ~StepTrace();

  /// After each step, in the thread that made the object. Throws std::runtime_error where the file can't be written.
  void step_done();

 private:
  void start();
  void finish();

  std::filesystem::path path_;
  int64_t steps_;
  c10::Device device_;
  int64_t done_ = 0;
  bool recording_ = false;
};

}  // namespace iabn::train
