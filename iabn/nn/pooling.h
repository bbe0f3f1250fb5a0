#pragma once

// Pooling that keeps as little as possible for backward.

#include <cstdint>

#include <ATen/core/Tensor.h>

namespace iabn::nn {

/// at::max_pool2d with floor sizes and no dilation: the same values and gradients, ties and NaN included.
///
/// x: [N, C, H, W], any floating dtype, CPU or CUDA, contiguous or channels-last. Where PyTorch keeps x and a 64-bit
/// index per output for backward, this keeps the largest element's place in its window as one byte (kernel <= 16) and
/// never x; backward computes the indices again. x is not written to; pass it with std::move, so that it is freed
/// where no one else holds it. Backward can be differentiated, and runs under at::Context's deterministic algorithms on
/// CUDA as well, where PyTorch's refuses.
at::Tensor max_pool2d(at::Tensor x, int64_t kernel = 3, int64_t stride = 2, int64_t padding = 1);

/// at::avg_pool2d without padding, stride = kernel, floor sizes. Where PyTorch keeps x for backward, this keeps
/// nothing.
at::Tensor avg_pool2d(at::Tensor x, int64_t kernel = 2);

}  // namespace iabn::nn
