#include "iabn/train/cuda_graph.h"

#include <stdexcept>

#include <ATen/cuda/CUDAContext.h>
#include <ATen/cuda/CUDAEvent.h>
#include <ATen/cuda/CUDAGraph.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAFunctions.h>
#include <c10/cuda/CUDAGuard.h>

namespace iabn::train {

struct CudaGraph::State {
  explicit State(c10::Device device) : stream(c10::cuda::getStreamFromPool(false, device.index())) {}

  // Runs body with the own stream as the current one, between what the current stream has and will have.
  template <class Body>
  void on_stream(Body&& body) {
    const c10::cuda::CUDAStream outside = c10::cuda::getCurrentCUDAStream(stream.device_index());
    at::cuda::CUDAEvent before, after;
    before.record(outside);
    before.block(stream);
    {
      const c10::cuda::CUDAStreamGuard guard(stream);
      body();
    }
    after.record(stream);
    after.block(outside);
  }

  c10::cuda::CUDAStream stream;
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
  // What run() has used can't be reused by the graph, which has memory of its own.
  c10::cuda::device_synchronize();
  c10::cuda::CUDACachingAllocator::emptyCache();
  state_->on_stream([&] {
    // Thread-local: the loader's threads may pin memory meanwhile.
    state_->graph.capture_begin({0, 0}, cudaStreamCaptureModeThreadLocal);
    work();
    state_->graph.capture_end();
  });
  state_->captured = true;
}

bool CudaGraph::captured() const { return state_->captured; }

void CudaGraph::replay() { state_->graph.replay(); }

}  // namespace iabn::train
