#pragma once

// Forward as two plain passes. Bytes, in tensors: statistics read 1; apply reads 1 (residual form: 2) and
// writes 1. Included by the forward_<type>.cu files alone, one storage type each.

#include "iabn/kernels/cuda/accumulators.cuh"
#include "iabn/kernels/cuda/activations.cuh"
#include "iabn/kernels/cuda/cursor.cuh"
#include "iabn/kernels/cuda/finish.h"
#include "iabn/kernels/cuda/kernels.h"
#include "iabn/kernels/cuda/launch.h"
#include "iabn/kernels/cuda/moments.cuh"
#include "iabn/kernels/cuda/two_pass.h"
#include "iabn/kernels/cuda/vector.cuh"
#include "iabn/kernels/cuda/with_vector.h"

namespace iabn::kernels::cuda {
namespace {

template <class T, int kWidth, Layout kLayout>
__global__ void __launch_bounds__(LaunchPolicy::kThreads, LaunchPolicy::kStatisticsBlocks)
    statistics_kernel(const T* x, const Walk walk, accumulate_t<T>* partial) {
  using A = accumulate_t<T>;
  using C = Cursor<kWidth, kLayout, Direction::kForward>;
  using Accumulator = Moments<A, C::kSlots>;
  constexpr int kBatch = LaunchPolicy::forward_batch(kWidth * sizeof(T));
  __shared__ A shared[Accumulator::kNumbers][LaunchPolicy::kThreads / 2];
  C cursor(walk);

  // Pass 1: each thread over its share.
  Accumulator mine;
  for_each_batch<kBatch>(cursor, cursor.count, [&]<int kSize>(const int64_t(&offsets)[kSize]) {
    Vector<T, kWidth> batch[kSize];
#pragma unroll
    for (int u = 0; u < kSize; ++u) batch[u] = Vector<T, kWidth>::load(x + offsets[u]);
    if (mine.count == A(0)) set_origin(mine, batch[0]);
    MomentsBatch<A, C::kSlots> sums(mine);
#pragma unroll
    for (int u = 0; u < kSize; ++u) sums.add(batch[u]);
    sums.merge_into(mine, A(kSize * kWidth / C::kSlots));
  });

  // Pass 2: the block's threads merge; one row publishes.
  if constexpr (kLayout == Layout::kContiguous) {
    merge_block<LaunchPolicy::kThreads>(mine, shared);
  } else {
    merge_rows<LaunchPolicy::kThreads>(mine, cursor.column, cursor.row, walk.columns, walk.rows, shared);
  }
  if (cursor.row != 0 || cursor.channel() >= walk.channels) return;
  A* mean = partial + cursor.split * walk.channels + cursor.channel();
  A* m2 = mean + walk.splits * walk.channels;
#pragma unroll
  for (int k = 0; k < C::kSlots; ++k) {
    mean[k] = mine.mean[k];
    m2[k] = mine.m2[k];
  }
}

template <class T, int kWidth, Layout kLayout, bool kResidual, class Act>
__global__ void __launch_bounds__(LaunchPolicy::kThreads, LaunchPolicy::kApplyBlocks)
    apply_kernel(T* x, const T* r, const Walk walk, const accumulate_t<T>* mean, const accumulate_t<T>* var,
                 const Affine<accumulate_t<T>> affine, const Act act, int64_t* batches) {
  using A = accumulate_t<T>;
  using C = Cursor<kWidth, kLayout, Direction::kBackward>;
  constexpr int kBatch = LaunchPolicy::forward_batch(kWidth * sizeof(T));
  constexpr int kTile = kLayout == Layout::kChannelsLast ? LaunchPolicy::kTileBytes / sizeof(T) : 1;
  __shared__ A tile_mean[kTile];
  __shared__ A tile_scale[kTile];
  __shared__ A tile_beta[kTile];
  C cursor(walk);
  // The kernel before has read the count of batches; here nobody does.
  if (batches && blockIdx.x == 0 && threadIdx.x == 0) *batches += 1;

  // Pass 1: the tile's coefficients, once per block.
  for (int i = threadIdx.x; i < walk.columns * C::kSlots; i += LaunchPolicy::kThreads) {
    if (cursor.tile_channel + i >= walk.channels) break;
    const int64_t c = (cursor.tile_channel + i) / walk.fold;
    tile_mean[i] = mean[c];
    tile_scale[i] = affine.gamma(c) * (A(1) / sqrt(var[c] + affine.eps));
    tile_beta[i] = affine.beta(c);
  }
  __syncthreads();
  A slot_mean[C::kSlots], scale[C::kSlots], beta[C::kSlots];
#pragma unroll
  for (int k = 0; k < C::kSlots; ++k) {
    slot_mean[k] = tile_mean[cursor.column * C::kSlots + k];
    scale[k] = tile_scale[cursor.column * C::kSlots + k];
    beta[k] = tile_beta[cursor.column * C::kSlots + k];
  }

  // Pass 2: each thread over its share, last item first.
  for_each_batch<kBatch>(cursor, cursor.count, [&]<int kSize>(const int64_t(&offsets)[kSize]) {
    Vector<T, kWidth> batch[kSize];
    [[maybe_unused]] Vector<T, kWidth> r_batch[kSize];
#pragma unroll
    for (int u = 0; u < kSize; ++u) {
      batch[u] = Vector<T, kWidth>::load(x + offsets[u]);
      if constexpr (kResidual) r_batch[u] = Vector<T, kWidth>::load(r + offsets[u]);
    }
#pragma unroll
    for (int u = 0; u < kSize; ++u) {
      A values[kWidth];
      [[maybe_unused]] A r_values[kWidth];
      batch[u].unpack(values);
      if constexpr (kResidual) r_batch[u].unpack(r_values);
#pragma unroll
      for (int j = 0; j < kWidth; ++j) {
        const int k = C::slot(j);
        A y = (values[j] - slot_mean[k]) * scale[k] + beta[k];
        if constexpr (kResidual) y += r_values[j];
        values[j] = act.forward(y);
      }
      Vector<T, kWidth>::pack(values).store(x + offsets[u]);
    }
  });
}

template <class T>
void launch_statistics(const T* x, const Shape& shape, const StatisticsResult<accumulate_t<T>>& result,
                       accumulate_t<T>* partial, cudaStream_t stream) {
  if (shape.c == 0) return;
  const View view = make_view<T>(shape, {x}, LaunchPolicy::kFoldBelow);
  const Walk walk = statistics_walk<T>(view, multiprocessors());
  if (walk.blocks() > 0) {
    with_vector<T>(view.shape.layout, view.width, [&]<Layout kLayout, int kWidth>() {
      statistics_kernel<T, kWidth, kLayout>
          <<<static_cast<unsigned int>(walk.blocks()), LaunchPolicy::kThreads, 0, stream>>>(x, walk, partial);
      check_launch("statistics_kernel");
    });
  }
  finish_statistics(partial, walk, shape.count(), result, stream);
}

/// `r` only where kResidual.
template <bool kResidual, class T>
void launch_apply(T* x, const T* r, const Shape& shape, const accumulate_t<T>* mean, const accumulate_t<T>* var,
                  const Affine<accumulate_t<T>>& affine, const ActivationSpec& activation, int64_t* batches,
                  cudaStream_t stream) {
  if (shape.numel() == 0) return;
  const View view = make_view<T>(shape, {x, r}, LaunchPolicy::kFoldBelow);
  const Walk walk = apply_walk<T>(view, multiprocessors());
  with_vector<T>(view.shape.layout, view.width, [&]<Layout kLayout, int kWidth>() {
    with_compiled_activation<T>(activation, [&](const auto& act) {
      apply_kernel<T, kWidth, kLayout, kResidual>
          <<<static_cast<unsigned int>(walk.blocks()), LaunchPolicy::kThreads, 0, stream>>>(x, r, walk, mean, var,
                                                                                            affine, act, batches);
      check_launch("apply_kernel");
    });
  });
}

}  // namespace

template <class T>
void two_pass_forward(T* x, const Shape& shape, const Affine<accumulate_t<T>>& affine, const ActivationSpec& activation,
                      const Running<accumulate_t<T>>& running, accumulate_t<T>* mean, accumulate_t<T>* var,
                      void* workspace, cudaStream_t stream) {
  using A = accumulate_t<T>;
  launch_statistics<T>(x, shape, StatisticsResult<A>{nullptr, mean, var, running}, static_cast<A*>(workspace), stream);
  launch_apply<false, T>(x, nullptr, shape, mean, var, affine, activation, running.batches, stream);
}

template <class T>
void two_pass_residual_forward(T* x, const T* r, const Shape& shape, const Affine<accumulate_t<T>>& affine,
                               const ActivationSpec& activation, const Running<accumulate_t<T>>& running,
                               accumulate_t<T>* mean, accumulate_t<T>* var, void* workspace, cudaStream_t stream) {
  using A = accumulate_t<T>;
  launch_statistics<T>(x, shape, StatisticsResult<A>{nullptr, mean, var, running}, static_cast<A*>(workspace), stream);
  launch_apply<true, T>(x, r, shape, mean, var, affine, activation, running.batches, stream);
}

template <class T>
void statistics(const T* x, const Shape& shape, accumulate_t<T>* packed, void* workspace, cudaStream_t stream) {
  using A = accumulate_t<T>;
  launch_statistics<T>(x, shape, StatisticsResult<A>{packed, nullptr, nullptr, {}}, static_cast<A*>(workspace), stream);
}

template <class T>
void apply(T* x, const Shape& shape, const accumulate_t<T>* mean, const accumulate_t<T>* var,
           const Affine<accumulate_t<T>>& affine, const ActivationSpec& activation, cudaStream_t stream) {
  launch_apply<false, T>(x, nullptr, shape, mean, var, affine, activation, nullptr, stream);
}

/// The functions of kernels.h that these files define for one storage type.
#define IABN_INSTANTIATE_FORWARD(T)                                                                                 \
  template void two_pass_forward(T*, const Shape&, const Affine<accumulate_t<T>>&, const ActivationSpec&,           \
                                 const Running<accumulate_t<T>>&, accumulate_t<T>*, accumulate_t<T>*, void*,        \
                                 cudaStream_t);                                                                     \
  template void two_pass_residual_forward(T*, const T*, const Shape&, const Affine<accumulate_t<T>>&,               \
                                          const ActivationSpec&, const Running<accumulate_t<T>>&, accumulate_t<T>*, \
                                          accumulate_t<T>*, void*, cudaStream_t);                                   \
  template void statistics(const T*, const Shape&, accumulate_t<T>*, void*, cudaStream_t);                          \
  template void apply(T*, const Shape&, const accumulate_t<T>*, const accumulate_t<T>*,                             \
                      const Affine<accumulate_t<T>>&, const ActivationSpec&, cudaStream_t)

}  // namespace iabn::kernels::cuda
