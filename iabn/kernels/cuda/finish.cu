// Merges the splits of a reduction. Reads splits * C partial results (a few MB at most, still in L2) and writes a few
// numbers per channel. A block covers 16 channels with 32 threads each: wide enough for whole 64-byte segments, and
// deep enough that hundreds of splits cost some microseconds.

#include "iabn/kernels/cuda/finish.h"

#include "iabn/kernels/cuda/accumulators.cuh"
#include "iabn/kernels/cuda/launch.h"

namespace iabn::kernels::cuda {
namespace {

struct FinishPolicy {
  static constexpr int kColumns = 16;
  static constexpr int kRows = 32;
  static constexpr int kThreads = kColumns * kRows;
};

/// A thread's channel and its turn among the channel's partial results, which lie `channels` apart, or, where the
/// tensor was folded, side by side: neighbouring threads read neighbouring numbers in both cases.
struct Place {
  int column, row;
  int64_t channel, channels;

  __device__ explicit Place(const Walk& walk)
      : column(static_cast<int>(walk.fold == 1 ? threadIdx.x % FinishPolicy::kColumns
                                               : threadIdx.x / FinishPolicy::kRows)),
        row(static_cast<int>(walk.fold == 1 ? threadIdx.x / FinishPolicy::kColumns
                                            : threadIdx.x % FinishPolicy::kRows)),
        channel(int64_t{blockIdx.x} * FinishPolicy::kColumns + column),
        channels(walk.channels / walk.fold) {}

  /// Calls f(split, index) for every 32nd partial result of the channel.
  template <class F>
  __device__ void for_each(const Walk& walk, F&& f) const {
    if (channel >= channels) return;
    if (walk.fold == 1) {
#pragma unroll 4
      for (int64_t split = row; split < walk.splits; split += FinishPolicy::kRows) {
        f(split, split * walk.channels + channel);
      }
      return;
    }
    for (int64_t split = 0; split < walk.splits; ++split) {
#pragma unroll 4
      for (int64_t s = row; s < walk.fold; s += FinishPolicy::kRows) {
        f(split, split * walk.channels + channel * walk.fold + s);
      }
    }
  }
};

template <class A>
__global__ void __launch_bounds__(FinishPolicy::kThreads)
    finish_statistics_kernel(const A* partial, Walk walk, A count, StatisticsResult<A> result) {
  using Accumulator = Moments<A, 1>;
  __shared__ A shared[Accumulator::kNumbers][FinishPolicy::kThreads / 2];
  const Place place(walk);
  const int64_t c = place.channel;
  const int64_t channels = place.channels;

  // Pass 1: each thread merges every 32nd partial result, then the threads of a channel merge.
  Accumulator all;
  const A* all_m2 = partial + walk.splits * walk.channels;
  place.for_each(walk, [&](int64_t split, int64_t index) {
    Accumulator one;
    one.count = A(walk.split_count(split));
    one.mean[0] = partial[index];
    one.m2[0] = all_m2[index];
    all.merge(one);
  });
  merge_rows<FinishPolicy::kThreads>(all, place.column, place.row, FinishPolicy::kColumns, FinishPolicy::kRows, shared);
  if (place.row != 0 || c >= channels) return;

  // Pass 2: one thread per channel publishes.
  const A mean = all.mean[0];
  const A m2 = all.m2[0];
  if (result.packed) {
    result.packed[c] = count;
    result.packed[channels + c] = mean;
    result.packed[2 * channels + c] = m2;
  }
  if (result.mean) result.mean[c] = mean;
  if (result.var) result.var[c] = count > A(0) ? m2 / count : A(0);
  const Running<A>& running = result.running;
  if (!running.mean || count == A(0)) return;
  const A factor = running.momentum < 0 ? A(1) / A(*running.batches + 1) : A(running.momentum);
  const A unbiased = m2 / (count > A(1) ? count - A(1) : A(1));
  running.mean[c] = (A(1) - factor) * running.mean[c] + factor * mean;
  running.var[c] = (A(1) - factor) * running.var[c] + factor * unbiased;
}

template <class A>
__global__ void __launch_bounds__(FinishPolicy::kThreads)
    finish_backward_kernel(const A* partial, Walk walk, A count, Affine<A> affine, BackwardResult<A> result) {
  using Accumulator = GradientSums<A, 1>;
  __shared__ A shared[Accumulator::kNumbers][FinishPolicy::kThreads / 2];
  const Place place(walk);
  const int64_t c = place.channel;
  const int64_t channels = place.channels;

  // Pass 1: each thread adds every 32nd partial result, then the threads of a channel merge.
  Accumulator all;
  const int64_t plane = walk.splits * walk.channels;
  place.for_each(walk, [&](int64_t, int64_t index) {
    all.a0[0] += partial[index];
    all.a1[0] += partial[plane + index];
    all.b1[0] += partial[2 * plane + index];
    all.b2[0] += partial[3 * plane + index];
  });
  merge_rows<FinishPolicy::kThreads>(all, place.column, place.row, FinishPolicy::kColumns, FinishPolicy::kRows, shared);
  if (place.row != 0 || c >= channels) return;

  // Pass 2: one thread per channel publishes.
  const A a0 = all.a0[0];
  const A a1 = all.a1[0];
  result.sums[c] = a0;
  result.sums[channels + c] = a1;
  result.sums[2 * channels + c] = all.b1[0];
  result.sums[3 * channels + c] = all.b2[0];
  if (result.d_bias) result.d_bias[c] = a0;
  if (!result.d_weight) return;
  const A gamma = affine.gamma(c);
  A d_gamma = A(0);
  if (result.frozen) {
    if (gamma != A(0)) d_gamma = a1 / gamma;
  } else if (count > A(0)) {
    d_gamma = gamma_gradient(recovery(gamma, count, all.b1[0], all.b2[0]), a0, a1);
  }
  result.d_weight[c] = d_gamma * affine.gamma_sign(c);
}

unsigned int blocks(const Walk& walk) {
  return static_cast<unsigned int>((walk.channels / walk.fold + FinishPolicy::kColumns - 1) / FinishPolicy::kColumns);
}

}  // namespace

template <class A>
void finish_statistics(const A* partial, const Walk& walk, int64_t count, const StatisticsResult<A>& result,
                       cudaStream_t stream) {
  finish_statistics_kernel<<<blocks(walk), FinishPolicy::kThreads, 0, stream>>>(partial, walk, A(count), result);
  check_launch("finish_statistics_kernel");
}

template <class A>
void finish_backward(const A* partial, const Walk& walk, int64_t count, const Affine<A>& affine,
                     const BackwardResult<A>& result, cudaStream_t stream) {
  finish_backward_kernel<<<blocks(walk), FinishPolicy::kThreads, 0, stream>>>(partial, walk, A(count), affine, result);
  check_launch("finish_backward_kernel");
}

template void finish_statistics(const float*, const Walk&, int64_t, const StatisticsResult<float>&, cudaStream_t);
template void finish_statistics(const double*, const Walk&, int64_t, const StatisticsResult<double>&, cudaStream_t);
template void finish_backward(const float*, const Walk&, int64_t, const Affine<float>&, const BackwardResult<float>&,
                              cudaStream_t);
template void finish_backward(const double*, const Walk&, int64_t, const Affine<double>&, const BackwardResult<double>&,
                              cudaStream_t);

}  // namespace iabn::kernels::cuda
