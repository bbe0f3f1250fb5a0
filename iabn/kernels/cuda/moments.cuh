#pragma once

// How a thread adds vectors to its running mean and M2.
//
// Note [Robust statistics]
// Elements come in batches. A batch's sums are taken relative to the running mean m of the n elements before it, S =
// sum (x - m) and Q = sum (x - m)^2, and merged by Chan, Golub and LeVeque's formula, which for this origin reads
//   m += S/N,  M2 += Q - S^2/N,  N = n + batch.
// The first element is the first origin. What cancellation in Q - S^2/N can lose is of the order of batch * D^2
// round-offs, with D the distance between the batch's mean and m; but an m that far off means that elements which
// differ by D have been seen, so that M2 itself is at least of the order of D^2. A mean of 1e4 with deviation 1, or an
// outlier in front of a constant channel, lose nothing; sums about 0 would lose the first, sums about the first element
// the second.

#include "iabn/kernels/cuda/accumulators.cuh"
#include "iabn/kernels/cuda/vector.cuh"

namespace iabn::kernels::cuda {

/// Sums of one batch about the running mean of `moments`.
template <class A, int kSlots>
class MomentsBatch {
 public:
  __device__ __forceinline__ explicit MomentsBatch(const Moments<A, kSlots>& moments) {
#pragma unroll
    for (int k = 0; k < kSlots; ++k) origin_[k] = moments.mean[k];
  }

  /// kSlots: the width of the vectors where they hold neighbouring channels, 1 where all their elements are one
  /// channel's.
  template <class T, int kWidth>
  __device__ __forceinline__ void add(const Vector<T, kWidth>& vector) {
    A values[kWidth];
    vector.unpack(values);
#pragma unroll
    for (int j = 0; j < kWidth; ++j) {
      const int k = kSlots == 1 ? 0 : j;
      const A deviation = values[j] - origin_[k];
      sum_[k] += deviation;
      square_[k] += deviation * deviation;
    }
  }

  /// Merges `count` elements per channel.
  __device__ __forceinline__ void merge_into(Moments<A, kSlots>& moments, A count) const {
    moments.count += count;
    const A share = ratio(A(1), moments.count);
#pragma unroll
    for (int k = 0; k < kSlots; ++k) {
      const A shift = sum_[k] * share;
      moments.mean[k] += shift;
      moments.m2[k] += square_[k] - sum_[k] * shift;
    }
  }

 private:
  A origin_[kSlots];
  A sum_[kSlots] = {};
  A square_[kSlots] = {};
};

/// The first origin: `vector` is the first one to be added.
template <class T, int kWidth, class A, int kSlots>
__device__ __forceinline__ void set_origin(Moments<A, kSlots>& moments, const Vector<T, kWidth>& vector) {
  A values[kWidth];
  vector.unpack(values);
#pragma unroll
  for (int k = 0; k < kSlots; ++k) moments.mean[k] = values[k];
}

}  // namespace iabn::kernels::cuda
