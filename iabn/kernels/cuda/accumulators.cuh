#pragma once

// What a reduction keeps per channel, and the merge of a block's threads in a fixed order.
//
// An accumulator holds kSlots channels side by side. It offers merge(other) and for_each(f), f called with each number
// in a fixed order, so that one routine moves any accumulator through shared memory.

#include "iabn/activation.h"

namespace iabn::kernels::cuda {

/// a / b to two units in the last place where that is faster; the same bits every time.
__device__ __forceinline__ float ratio(float a, float b) { return __fdividef(a, b); }
__device__ __forceinline__ double ratio(double a, double b) { return a / b; }

/// Count, mean and M2 of kSlots channels with a common count. See Note [Robust statistics].
template <class A_, int kSlots>
struct Moments {
  using A = A_;
  static constexpr int kNumbers = 1 + 2 * kSlots;
  static constexpr int kPosted = 2 * kSlots;  // what for_each_number visits

  A count = A(0);
  A mean[kSlots] = {};
  A m2[kSlots] = {};

  __device__ __forceinline__ void merge(const Moments& other) {
    if (other.count == A(0)) return;
    if (count == A(0)) {
      *this = other;  // exactly: the quotient below may be one unit off 1
      return;
    }
    const A total = count + other.count;
    const A share = ratio(other.count, total);
    const A weight = count * share;
#pragma unroll
    for (int k = 0; k < kSlots; ++k) {
      const A delta = other.mean[k] - mean[k];
      mean[k] += delta * share;
      m2[k] += other.m2[k] + delta * delta * weight;
    }
    count = total;
  }

  __device__ __forceinline__ Moments<A, 1> slot(int k) const { return {count, {mean[k]}, {m2[k]}}; }

  /// The numbers but for the count.
  template <class F>
  __device__ __forceinline__ void for_each_number(F&& f) {
#pragma unroll
    for (int k = 0; k < kSlots; ++k) f(mean[k]);
#pragma unroll
    for (int k = 0; k < kSlots; ++k) f(m2[k]);
  }

  template <class F>
  __device__ __forceinline__ void for_each(F&& f) {
    f(count);
#pragma unroll
    for (int k = 0; k < kSlots; ++k) f(mean[k]);
#pragma unroll
    for (int k = 0; k < kSlots; ++k) f(m2[k]);
  }
};

/// The four sums of backward.
template <class A_, int kSlots>
struct GradientSums {
  using A = A_;
  static constexpr int kNumbers = 4 * kSlots;
  static constexpr int kPosted = kNumbers;  // likewise

  A a0[kSlots] = {};  // sum d_y
  A a1[kSlots] = {};  // sum d_y*y'
  A b1[kSlots] = {};  // sum y'
  A b2[kSlots] = {};  // sum y'^2

  __device__ __forceinline__ void add(int k, A y, A d_y) {
    a0[k] += d_y;
    a1[k] += d_y * y;
    b1[k] += y;
    b2[k] += y * y;
  }

  __device__ __forceinline__ void merge(const GradientSums& other) {
#pragma unroll
    for (int k = 0; k < kSlots; ++k) {
      a0[k] += other.a0[k];
      a1[k] += other.a1[k];
      b1[k] += other.b1[k];
      b2[k] += other.b2[k];
    }
  }

  __device__ __forceinline__ GradientSums<A, 1> slot(int k) const { return {{a0[k]}, {a1[k]}, {b1[k]}, {b2[k]}}; }
  template <class F>
  __device__ __forceinline__ void for_each_number(F&& f) {
    for_each(f);
  }

  template <class F>
  __device__ __forceinline__ void for_each(F&& f) {
#pragma unroll
    for (int k = 0; k < kSlots; ++k) f(a0[k]);
#pragma unroll
    for (int k = 0; k < kSlots; ++k) f(a1[k]);
#pragma unroll
    for (int k = 0; k < kSlots; ++k) f(b1[k]);
#pragma unroll
    for (int k = 0; k < kSlots; ++k) f(b2[k]);
  }
};

/// Merges the accumulators of the rows of each column into row 0, as a fixed tree. All threads of the block call it;
/// threads with row >= rows only wait. `shared` holds half a block: the upper half of the rows hands over.
template <int kThreads, class Accumulator>
__device__ __forceinline__ void merge_rows(Accumulator& mine, int column, int row, int columns, int rows,
                                           typename Accumulator::A (&shared)[Accumulator::kNumbers][kThreads / 2]) {
  using A = typename Accumulator::A;
  while (rows > 1) {
    const int half = (rows + 1) / 2;
    if (row >= half && row < rows) {
      const int slot = (row - half) * columns + column;
      int i = 0;
      mine.for_each([&](A& number) { shared[i++][slot] = number; });
    }
    __syncthreads();
    if (row + half < rows) {
      const int slot = row * columns + column;
      Accumulator other;
      int i = 0;
      other.for_each([&](A& number) { number = shared[i++][slot]; });
      mine.merge(other);
    }
    __syncthreads();
    rows = half;
  }
}

/// The same for a block that is one column: the warps merge by shuffles first.
template <int kThreads, class Accumulator>
__device__ __forceinline__ void merge_block(Accumulator& mine,
                                            typename Accumulator::A (&shared)[Accumulator::kNumbers][kThreads / 2]) {
  using A = typename Accumulator::A;
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) {
    Accumulator other = mine;
    other.for_each([&](A& number) { number = __shfl_down_sync(0xffffffffu, number, distance); });
    mine.merge(other);
  }
  const int warp = static_cast<int>(threadIdx.x) / 32;
  merge_rows<kThreads>(mine, 0, threadIdx.x % 32 == 0 ? warp : kThreads, 1, kThreads / 32, shared);
}

}  // namespace iabn::kernels::cuda
