#pragma once

// What an operator's call on a CUDA device needs: x's device as the current one, its stream, workspace.

#include <cuda_runtime_api.h>

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>

#include "iabn/ops/tensors.h"

namespace iabn::ops {

struct CudaContext {
  explicit CudaContext(const Tensor& x_) : x(x_), guard(x_.get_device_index()) {
    void* current = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(x.get_device_index(), &current));
    stream = static_cast<cudaStream_t>(current);
  }
  /// Lives until the operator returns; the caching allocator hands it out again in stream order only.
  void* allocate(size_t bytes) {
    if (bytes == 0) return nullptr;
    memory = empty_small(x, {static_cast<int64_t>(bytes)}, ScalarType::Byte);
    return memory.mutable_data_ptr();
  }

  const Tensor& x;
  torch::stable::accelerator::DeviceGuard guard;
  cudaStream_t stream = nullptr;
  Tensor memory;
};

}  // namespace iabn::ops
