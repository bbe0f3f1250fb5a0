#pragma once

// A CUDA graph of work that LibTorch issues.

#include <functional>
#include <memory>

#include <c10/core/Device.h>

namespace iabn::train {

/// run() issues work at once, on the stream that capture() will use: a few runs let libraries choose their algorithms.
/// capture() records the work without running it; replay() runs what was recorded. Each begins after what the current
/// stream holds, and what the current stream gets later waits for it; the host waits in capture() alone. Tensors that
/// the work reads and writes must outlive the graph, where they are.
class CudaGraph {
 public:
  /// Throws std::invalid_argument where device is not CUDA, or this build has no CUDA.
  explicit CudaGraph(c10::Device device);
  ~CudaGraph();
  void run(const std::function<void()>& work);
  void capture(const std::function<void()>& work);
  bool captured() const;
  void replay();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace iabn::train
