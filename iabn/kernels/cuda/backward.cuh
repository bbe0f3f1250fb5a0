#pragma once

// Backward as two plain passes. Bytes, in tensors: reduce reads 2 (z, d_z); apply reads 2 and writes 1 (d_x). The
// residual form reads 3 (z, d_z, r) twice and writes 2 (d_x, d_r). Included by the backward_<type>.cu files alone, one
// storage type each.

#include "iabn/kernels/cuda/accumulators.cuh"
#include "iabn/kernels/cuda/activations.cuh"
#include "iabn/kernels/cuda/cursor.cuh"
#include "iabn/kernels/cuda/finish.h"
#include "iabn/kernels/cuda/kernels.h"
#include "iabn/kernels/cuda/launch.h"
#include "iabn/kernels/cuda/two_pass.h"
#include "iabn/kernels/cuda/vector.cuh"
#include "iabn/kernels/cuda/with_vector.h"

namespace iabn::kernels::cuda {
namespace {

/// What backward reads and writes; r and d_r in the residual form alone.
template <class T>
struct BackwardTensors {
  const T* z;
  const T* d_z;
  const T* r = nullptr;
  T* d_x = nullptr;
  T* d_r = nullptr;
};

/// A vector of each tensor that backward reads, and what the elements mean.
template <class T, int kWidth, bool kResidual>
struct BackwardVectors {
  using A = accumulate_t<T>;
  Vector<T, kWidth> z, d_z, r;

  static __device__ __forceinline__ BackwardVectors load(const BackwardTensors<T>& tensors, int64_t offset) {
    using V = Vector<T, kWidth>;
    BackwardVectors result{V::load(tensors.z + offset), V::load(tensors.d_z + offset), {}};
    if constexpr (kResidual) result.r = V::load(tensors.r + offset);
    return result;
  }

  /// y' + beta, and d_y.
  template <class Act>
  __device__ __forceinline__ void recover(const Act& act, A (&y)[kWidth], A (&d_y)[kWidth]) const {
    A z_values[kWidth];
    [[maybe_unused]] A r_values[kWidth];
    z.unpack(z_values);
    d_z.unpack(d_y);
    if constexpr (kResidual) r.unpack(r_values);
#pragma unroll
    for (int j = 0; j < kWidth; ++j) {
      y[j] = act.inverse(z_values[j]);
      if constexpr (kResidual) y[j] -= r_values[j];
      d_y[j] *= act.derivative(z_values[j]);
    }
  }
};

template <class T, int kWidth, Layout kLayout, bool kResidual, class Act>
__global__ void __launch_bounds__(LaunchPolicy::kThreads, LaunchPolicy::kBackwardReduceBlocks)
    backward_reduce_kernel(const BackwardTensors<T> tensors, const Walk walk, const Affine<accumulate_t<T>> affine,
                           const Act act, accumulate_t<T>* partial) {
  using A = accumulate_t<T>;
  using C = Cursor<kWidth, kLayout, Direction::kForward>;
  using Vectors = BackwardVectors<T, kWidth, kResidual>;
  using Accumulator = GradientSums<A, C::kSlots>;
  constexpr int kBatch = LaunchPolicy::backward_batch(kWidth * sizeof(T));
  __shared__ A shared[Accumulator::kNumbers][LaunchPolicy::kThreads / 2];
  C cursor(walk);
  const int64_t channel = cursor.channel();
  const bool published = cursor.row == 0 && channel < walk.channels;
  A beta[C::kSlots];
#pragma unroll
  for (int k = 0; k < C::kSlots; ++k) beta[k] = channel < walk.channels ? affine.beta((channel + k) / walk.fold) : A(0);

  // Pass 1: each thread over its share.
  Accumulator mine;
  for_each_batch<kBatch>(cursor, cursor.count, [&]<int kSize>(const int64_t(&offsets)[kSize]) {
    Vectors batch[kSize];
#pragma unroll
    for (int u = 0; u < kSize; ++u) batch[u] = Vectors::load(tensors, offsets[u]);
#pragma unroll
    for (int u = 0; u < kSize; ++u) {
      A y[kWidth], d_y[kWidth];
      batch[u].recover(act, y, d_y);
#pragma unroll
      for (int j = 0; j < kWidth; ++j) mine.add(C::slot(j), y[j] - beta[C::slot(j)], d_y[j]);
    }
  });

  // Pass 2: the block's threads merge; one row publishes.
  if constexpr (kLayout == Layout::kContiguous) {
    merge_block<LaunchPolicy::kThreads>(mine, shared);
  } else {
    merge_rows<LaunchPolicy::kThreads>(mine, cursor.column, cursor.row, walk.columns, walk.rows, shared);
  }
  if (!published) return;
  A* at = partial + cursor.split * walk.channels + channel;
  const int64_t plane = walk.splits * walk.channels;
#pragma unroll
  for (int k = 0; k < C::kSlots; ++k) {
    at[k] = mine.a0[k];
    at[plane + k] = mine.a1[k];
    at[2 * plane + k] = mine.b1[k];
    at[3 * plane + k] = mine.b2[k];
  }
}

/// Where the coefficients of an application come from.
template <class A>
struct CoefficientSource {
  const A* sums;   // [4, C]; unused where frozen
  const A* count;  // [1] on the device; null: `m`
  A m;
  const A* var;  // [C]
  bool frozen;

  __device__ __forceinline__ BackwardCoefficients<A> operator()(const Affine<A>& affine, int64_t c,
                                                                int64_t channels) const {
    const A gamma = affine.gamma(c);
    const A rstd = A(1) / sqrt(var[c] + affine.eps);
    if (frozen) return {gamma * rstd, A(0), A(0)};
    const A total = count ? *count : m;
    const A a0 = sums[c];
    const Recovery<A> r = recovery(gamma, total, sums[2 * channels + c], sums[3 * channels + c]);
    return backward_coefficients(r, gamma, rstd, total, a0, gamma_gradient(r, a0, sums[channels + c]));
  }
};

/// d_x or d_r may be d_z: a thread reads a vector before it writes it, and nobody else touches it.
template <class T, int kWidth, Layout kLayout, bool kResidual, class Act>
__global__ void __launch_bounds__(LaunchPolicy::kThreads, LaunchPolicy::kBackwardApplyBlocks)
    backward_apply_kernel(const BackwardTensors<T> tensors, const Walk walk,
                          const CoefficientSource<accumulate_t<T>> source, const Affine<accumulate_t<T>> affine,
                          const Act act) {
  using A = accumulate_t<T>;
  using C = Cursor<kWidth, kLayout, Direction::kBackward>;
  using Vectors = BackwardVectors<T, kWidth, kResidual>;
  constexpr int kBatch = LaunchPolicy::backward_batch(kWidth * sizeof(T));
  constexpr int kTile = kLayout == Layout::kChannelsLast ? LaunchPolicy::kTileBytes / sizeof(T) : 1;
  __shared__ A tile_a[kTile];
  __shared__ A tile_b[kTile];
  __shared__ A tile_c[kTile];
  __shared__ A tile_beta[kTile];
  C cursor(walk);

  // Pass 1: the tile's coefficients, once per block.
  for (int i = threadIdx.x; i < walk.columns * C::kSlots; i += LaunchPolicy::kThreads) {
    if (cursor.tile_channel + i >= walk.channels) break;
    const int64_t channel = (cursor.tile_channel + i) / walk.fold;
    const BackwardCoefficients<A> coefficients = source(affine, channel, walk.channels / walk.fold);
    tile_a[i] = coefficients.a;
    tile_b[i] = coefficients.b;
    tile_c[i] = coefficients.c;
    tile_beta[i] = affine.beta(channel);
  }
  __syncthreads();
  A a[C::kSlots], b[C::kSlots], c[C::kSlots], beta[C::kSlots];
#pragma unroll
  for (int k = 0; k < C::kSlots; ++k) {
    a[k] = tile_a[cursor.column * C::kSlots + k];
    b[k] = tile_b[cursor.column * C::kSlots + k];
    c[k] = tile_c[cursor.column * C::kSlots + k];
    beta[k] = tile_beta[cursor.column * C::kSlots + k];
  }

  // Pass 2: each thread over its share, last item first.
  for_each_batch<kBatch>(cursor, cursor.count, [&]<int kSize>(const int64_t(&offsets)[kSize]) {
    Vectors batch[kSize];
#pragma unroll
    for (int u = 0; u < kSize; ++u) batch[u] = Vectors::load(tensors, offsets[u]);
#pragma unroll
    for (int u = 0; u < kSize; ++u) {
      A y[kWidth], d_y[kWidth], d_x[kWidth];
      batch[u].recover(act, y, d_y);
#pragma unroll
      for (int j = 0; j < kWidth; ++j) {
        const int k = C::slot(j);
        d_x[j] = a[k] * d_y[j];
        // Not by b = c = 0 when frozen: an infinite y' times 0 would be NaN.
        if (!source.frozen) d_x[j] += b[k] * (y[j] - beta[k]) + c[k];
      }
      Vector<T, kWidth>::pack(d_x).store(tensors.d_x + offsets[u]);
      if constexpr (kResidual) Vector<T, kWidth>::pack(d_y).store(tensors.d_r + offsets[u]);
    }
  });
}

template <bool kResidual, class T>
void launch_reduce(const BackwardTensors<T>& tensors, const Shape& shape, const Affine<accumulate_t<T>>& affine,
                   const ActivationSpec& activation, const BackwardResult<accumulate_t<T>>& result,
                   accumulate_t<T>* partial, cudaStream_t stream) {
  if (shape.c == 0) return;
  const View view = make_view<T>(shape, {tensors.z, tensors.d_z, tensors.r}, LaunchPolicy::kFoldBackwardReduceBelow);
  const Walk walk = backward_reduce_walk<T>(view, multiprocessors());
  if (walk.blocks() > 0) {
    with_vector<T>(view.shape.layout, view.width, [&]<Layout kLayout, int kWidth>() {
      with_compiled_activation<T>(activation, [&](const auto& act) {
        backward_reduce_kernel<T, kWidth, kLayout, kResidual>
            <<<static_cast<unsigned int>(walk.blocks()), LaunchPolicy::kThreads, 0, stream>>>(tensors, walk, affine,
                                                                                              act, partial);
        check_launch("backward_reduce_kernel");
      });
    });
  }
  finish_backward(partial, walk, shape.count(), affine, result, stream);
}

template <bool kResidual, class T>
void launch_backward_apply(const BackwardTensors<T>& tensors, const Shape& shape,
                           const CoefficientSource<accumulate_t<T>>& source, const Affine<accumulate_t<T>>& affine,
                           const ActivationSpec& activation, cudaStream_t stream) {
  if (!tensors.d_x || shape.numel() == 0) return;
  const View view =
      make_view<T>(shape, {tensors.z, tensors.d_z, tensors.r, tensors.d_x, tensors.d_r}, LaunchPolicy::kFoldBelow);
  const Walk walk = backward_apply_walk<T>(view, multiprocessors());
  with_vector<T>(view.shape.layout, view.width, [&]<Layout kLayout, int kWidth>() {
    with_compiled_activation<T>(activation, [&](const auto& act) {
      backward_apply_kernel<T, kWidth, kLayout, kResidual>
          <<<static_cast<unsigned int>(walk.blocks()), LaunchPolicy::kThreads, 0, stream>>>(tensors, walk, source,
                                                                                            affine, act);
      check_launch("backward_apply_kernel");
    });
  });
}

/// The sums [4, C] come first in the workspace, the partial results after them.
template <class A>
A* partial_results(A* sums, const Shape& shape) {
  return sums + 4 * shape.c;
}

template <bool kResidual, class T>
void launch_both(const BackwardTensors<T>& tensors, const Shape& shape, const accumulate_t<T>* var,
                 const Affine<accumulate_t<T>>& affine, const ActivationSpec& activation, accumulate_t<T>* d_weight,
                 accumulate_t<T>* d_bias, void* workspace, cudaStream_t stream) {
  using A = accumulate_t<T>;
  A* sums = static_cast<A*>(workspace);
  launch_reduce<kResidual>(tensors, shape, affine, activation, BackwardResult<A>{sums, d_weight, d_bias, false},
                           partial_results(sums, shape), stream);
  launch_backward_apply<kResidual>(tensors, shape, CoefficientSource<A>{sums, nullptr, A(shape.count()), var, false},
                                   affine, activation, stream);
}

}  // namespace

template <class T>
void two_pass_backward(const T* z, const T* d_z, T* d_x, const Shape& shape, const accumulate_t<T>* var,
                       const Affine<accumulate_t<T>>& affine, const ActivationSpec& activation,
                       accumulate_t<T>* d_weight, accumulate_t<T>* d_bias, void* workspace, cudaStream_t stream) {
  if (!d_x && !d_weight && !d_bias) return;
  launch_both<false, T>({.z = z, .d_z = d_z, .d_x = d_x}, shape, var, affine, activation, d_weight, d_bias, workspace,
                        stream);
}

template <class T>
void two_pass_residual_backward(const T* z, const T* d_z, const T* r, T* d_x, T* d_r, const Shape& shape,
                                const accumulate_t<T>* var, const Affine<accumulate_t<T>>& affine,
                                const ActivationSpec& activation, accumulate_t<T>* d_weight, accumulate_t<T>* d_bias,
                                void* workspace, cudaStream_t stream) {
  launch_both<true, T>({z, d_z, r, d_x, d_r}, shape, var, affine, activation, d_weight, d_bias, workspace, stream);
}

template <class T>
void backward_frozen(const T* z, const T* d_z, T* d_x, const Shape& shape, const accumulate_t<T>* var,
                     const Affine<accumulate_t<T>>& affine, const ActivationSpec& activation, accumulate_t<T>* d_weight,
                     accumulate_t<T>* d_bias, void* workspace, cudaStream_t stream) {
  using A = accumulate_t<T>;
  const BackwardTensors<T> tensors{.z = z, .d_z = d_z, .d_x = d_x};
  A* sums = static_cast<A*>(workspace);
  if (d_weight || d_bias) {
    launch_reduce<false, T>(tensors, shape, affine, activation, BackwardResult<A>{sums, d_weight, d_bias, true},
                            partial_results(sums, shape), stream);
  }
  launch_backward_apply<false, T>(tensors, shape, CoefficientSource<A>{nullptr, nullptr, A(0), var, true}, affine,
                                  activation, stream);
}

template <class T>
void backward_reduce(const T* z, const T* d_z, const Shape& shape, const Affine<accumulate_t<T>>& affine,
                     const ActivationSpec& activation, accumulate_t<T>* sums, void* workspace, cudaStream_t stream) {
  using A = accumulate_t<T>;
  launch_reduce<false, T>({.z = z, .d_z = d_z}, shape, affine, activation,
                          BackwardResult<A>{sums, nullptr, nullptr, false},
                          partial_results(static_cast<A*>(workspace), shape), stream);
}

template <class T>
void backward_apply(const T* z, const T* d_z, T* d_x, const Shape& shape, const accumulate_t<T>* sums,
                    const accumulate_t<T>* count, const accumulate_t<T>* var, const Affine<accumulate_t<T>>& affine,
                    const ActivationSpec& activation, cudaStream_t stream) {
  using A = accumulate_t<T>;
  launch_backward_apply<false, T>({.z = z, .d_z = d_z, .d_x = d_x}, shape,
                                  CoefficientSource<A>{sums, count, A(0), var, false}, affine, activation, stream);
}

/// The functions of kernels.h that these files define for one storage type.
#define IABN_INSTANTIATE_BACKWARD(T)                                                                                   \
  template void two_pass_backward(const T*, const T*, T*, const Shape&, const accumulate_t<T>*,                        \
                                  const Affine<accumulate_t<T>>&, const ActivationSpec&, accumulate_t<T>*,             \
                                  accumulate_t<T>*, void*, cudaStream_t);                                              \
  template void two_pass_residual_backward(const T*, const T*, const T*, T*, T*, const Shape&, const accumulate_t<T>*, \
                                           const Affine<accumulate_t<T>>&, const ActivationSpec&, accumulate_t<T>*,    \
                                           accumulate_t<T>*, void*, cudaStream_t);                                     \
  template void backward_frozen(const T*, const T*, T*, const Shape&, const accumulate_t<T>*,                          \
                                const Affine<accumulate_t<T>>&, const ActivationSpec&, accumulate_t<T>*,               \
                                accumulate_t<T>*, void*, cudaStream_t);                                                \
  template void backward_reduce(const T*, const T*, const Shape&, const Affine<accumulate_t<T>>&,                      \
                                const ActivationSpec&, accumulate_t<T>*, void*, cudaStream_t);                         \
  template void backward_apply(const T*, const T*, T*, const Shape&, const accumulate_t<T>*, const accumulate_t<T>*,   \
                               const accumulate_t<T>*, const Affine<accumulate_t<T>>&, const ActivationSpec&,          \
                               cudaStream_t)

}  // namespace iabn::kernels::cuda
