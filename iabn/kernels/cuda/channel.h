#pragma once

// Host side of the channel kernels (channel.cuh).

#include <cuda_runtime_api.h>

#include "iabn/kernels/cuda/launch_policy.h"
#include "iabn/kernels/kernels.h"

namespace iabn::kernels::cuda {

/// Measured on an H100 80GB, microseconds forward + backward.
struct ChannelPolicy {
  static constexpr int kThreads = 512;
  /// Single 16-bit elements, where the two passes would fold the tensor (walk.h): [128,2048,7,7] 146, two passes 106.
  static constexpr int kLeastBytes = 4;
  static constexpr int kVectors = 8;  // of each input, in a thread's registers, at most

  /// Whether the registers suffice for blocks of twice as many threads.
  static constexpr bool may_be_large(int vector_bytes, int inputs) { return vector_bytes * inputs <= 16; }
};

/// Elements per access with which the channel kernels take this tensor, or 0 where they don't: channels last, float64,
/// and channels that are too large. `pointer_bits`: all addresses, or-ed.
template <class T>
int channel_width(const Shape& shape, uintptr_t pointer_bits, int inputs) {
  if (shape.layout != Layout::kContiguous || sizeof(T) > 4 || shape.numel() == 0) return 0;
  const int width = vector_width<T>(shape, pointer_bits);
  const int bytes = width * static_cast<int>(sizeof(T));
  if (bytes < ChannelPolicy::kLeastBytes && shape.n >= LaunchPolicy::kFoldRows) return 0;
  const int sizes = ChannelPolicy::may_be_large(bytes, inputs) ? 2 : 1;
  const int64_t most = int64_t{sizes} * ChannelPolicy::kVectors * ChannelPolicy::kThreads;
  return shape.count() / width <= most && shape.c < int64_t{1} << 31 ? width : 0;
}

/// As forward() and backward() in kernels.h; d_x must be there. `width` as channel_width() says.
template <class T>
void channel_forward(T* x, const Shape& shape, const Affine<float>& affine, const ActivationSpec& activation,
                     const Running<float>& running, float* mean, float* var, int width, cudaStream_t stream);
template <class T>
void channel_backward(const T* z, const T* d_z, T* d_x, const Shape& shape, const float* var,
                      const Affine<float>& affine, const ActivationSpec& activation, float* d_weight, float* d_bias,
                      int width, cudaStream_t stream);

}  // namespace iabn::kernels::cuda
