#include "iabn/train/cuda_graph.h"

#include <stdexcept>

#include <ATen/cuda/CUDAGraph.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/Event.h>
#include <c10/core/StreamGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAFunctions.h>

namespace iabn::train {

struct CudaGraph::State {
  explicit State(c10::Device device) : guard(c10::kCUDA), stream(guard.getStreamFromGlobalPool(device)) {}

  // Runs body with the own stream as the current one, between what the current stream has and will have.
  template <class Body>
  void on_stream(Body&& body) {
    const c10::Stream outside = guard.getStream(stream.device());
    order(outside, stream);
    {
      const c10::StreamGuard on_own(stream);
      body();
    }
    order(stream, outside);
  }

  // What `later` gets from now on waits for what `earlier` holds.
  static void order(const c10::Stream& earlier, const c10::Stream& later) {
    c10::Event event(c10::kCUDA);
    event.record(earlier);
    event.block(later);
  }

  c10::impl::VirtualGuardImpl guard;
  c10::Stream stream;
  at::cuda::CUDAGraph graph;
  bool captured = false;
};

CudaGraph::CudaGraph(c10::Device device) {
  if (!device.is_cuda()) throw std::invalid_argument("CUDA graphs need a CUDA device, got " + device.str());
  state_ = std::make_unique<State>(device);
}

CudaGraph::~CudaGraph() = default;

void CudaGraph::run(const std::function<void()>& work) { state_->on_stream(work); }

void CudaGraph::capture(const std::function<void()>& work) {
  const c10::DeviceGuard on_device(state_->stream.device());
  // What run() has used can't be reused by the graph, which has memory of its own.
  c10::cuda::device_synchronize();
  c10::cuda::CUDACachingAllocator::emptyCache();
  state_->on_stream([&] {
    // Thread-local: other threads may meanwhile do what a capture forbids, such as pinning memory.
    state_->graph.capture_begin({0, 0}, cudaStreamCaptureModeThreadLocal);
    try {
      work();
    } catch (...) {
      try {
        state_->graph.capture_end();  // or the stream would go on capturing
      } catch (const std::exception&) {
      }
      throw;
    }
    state_->graph.capture_end();
  });
  state_->captured = true;
}

bool CudaGraph::captured() const { return state_->captured; }

void CudaGraph::replay() { state_->graph.replay(); }

}  // namespace iabn::train
