#pragma once

// Second step of every reduction: merge the partial results of the splits, channel by channel, and publish them.
// Partial results lie as [numbers, splits, C], or [numbers, splits, C*S] where folded (walk.h): mean, M2 for
// statistics; A0, A1, B1, B2 for backward.

#include <cuda_runtime_api.h>

#include "iabn/kernels/cuda/walk.h"
#include "iabn/kernels/kernels.h"

namespace iabn::kernels::cuda {

/// Where the statistics go; null pointers are skipped.
template <class A>
struct StatisticsResult {
  A* packed = nullptr;  // [3, C]: count, mean, M2
  A* mean = nullptr;    // [C]
  A* var = nullptr;     // [C], biased
  Running<A> running;   // its `batches` is only read here
};

template <class A>
void finish_statistics(const A* partial, const Walk& walk, int64_t count, const StatisticsResult<A>& result,
                       cudaStream_t stream);

/// Where the sums of backward go. The sums are always written; null gradients are skipped.
template <class A>
struct BackwardResult {
  A* sums = nullptr;      // [4, C]
  A* d_weight = nullptr;  // [C]
  A* d_bias = nullptr;    // [C]
  bool frozen = false;    // statistics are constants: d_gamma = A1/gamma
};

template <class A>
void finish_backward(const A* partial, const Walk& walk, int64_t count, const Affine<A>& affine,
                     const BackwardResult<A>& result, cudaStream_t stream);

}  // namespace iabn::kernels::cuda
