#pragma once

// Words that blocks which run at the same time hand to each other.
//
// Note [Flagged words]
// Two floats travel as one 64-bit word, read and written by relaxed accesses, which are single-copy atomic: a reader
// sees a word as it was before or as it was written, never a half. A word that has arrived is never kPending, since its
// upper float is no NaN but the canonical one. The data are their own signal, so there is no counter, no fence and no
// barrier.

#include <cstdint>

namespace iabn::kernels::cuda {

constexpr uint64_t kPending = ~uint64_t{0};

/// Note [Exchange in the L2]: the words are few and must be quick to reach, while whole tensors stream through the L2.
/// So they are asked to stay there, and touched a while before they are needed. [128,512,28,28] in groups of 132
/// blocks, backward, with the exchange of finding 06: 3.9 passes, without 4.25.
__device__ __forceinline__ uint64_t stay_in_l2() {
  uint64_t policy;
  asm("createpolicy.fractional.L2::evict_last.b64 %0, 1.0;" : "=l"(policy));
  return policy;
}

__device__ __forceinline__ uint64_t peek(const uint64_t* word) {
  uint64_t value;
  asm volatile("ld.relaxed.gpu.global.L2::cache_hint.u64 %0, [%1], %2;"
               : "=l"(value)
               : "l"(word), "l"(stay_in_l2())
               : "memory");
  return value;
}

/// Brings a word's line back into the L2 before it is needed.
__device__ __forceinline__ void touch(const uint64_t* word) {
  asm volatile("prefetch.global.L2::evict_last [%0];" ::"l"(word));
}

__device__ __forceinline__ void store_word(uint64_t* word, uint64_t value) {
  asm volatile("st.relaxed.gpu.global.L2::cache_hint.u64 [%0], %1, %2;" ::"l"(word), "l"(value), "l"(stay_in_l2())
               : "memory");
}

/// Two floats as a word that is not kPending.
__device__ __forceinline__ uint64_t flagged(float low, float high) {
  const float canonical = high == high ? high : __int_as_float(0x7fffffff);
  return static_cast<uint64_t>(__float_as_uint(canonical)) << 32 | __float_as_uint(low);
}

__device__ __forceinline__ float low_of(uint64_t word) { return __uint_as_float(static_cast<uint32_t>(word)); }
__device__ __forceinline__ float high_of(uint64_t word) { return __uint_as_float(static_cast<uint32_t>(word >> 32)); }

/// The area of one launch: all bytes are zero when it starts. First the words of every channel's sums (exact_sums.cuh),
/// then two per channel for coefficients that one block alone can tell (a synchronised layer's).
struct Exchange {
  static constexpr int kMostBlocks = 160;  // of a group; see Note [Exact sums]
  static constexpr int kSumWords = 48;     // of a channel
  static constexpr int kCoefficientWords = 2;

  uint64_t* words = nullptr;
  int64_t channels = 0;       // of all slabs, the last one's missing ones included
  int blocks = 0;             // of a group
  uint4* to_clear = nullptr;  // what the stream's launch before has used
  int64_t clear_size = 0;     // in uint4

  static constexpr size_t bytes(int64_t channels) {
    return static_cast<size_t>(channels * (kSumWords + kCoefficientWords)) * sizeof(uint64_t);
  }
  __device__ __forceinline__ uint64_t* coefficients(int64_t channel) const {
    return words + channels * kSumWords + channel * kCoefficientWords;
  }

  /// Thread number `thread` of the launch's `threads` which share the work.
  __device__ __forceinline__ void clear(int64_t thread, int64_t threads) const {
    for (int64_t i = thread; i < clear_size; i += threads) to_clear[i] = {};
  }
};

/// Four floats as two words that are not zero, for any number of readers.
__device__ __forceinline__ void post_coefficients(uint64_t* at, float4 numbers) {
  store_word(at, ~flagged(numbers.x, numbers.y));
  store_word(at + 1, ~flagged(numbers.z, numbers.w));
}
/// Waits for them.
__device__ __forceinline__ float4 take_coefficients(const uint64_t* at) {
  uint64_t first, second;
  do {
    first = peek(at);
    second = peek(at + 1);
  } while (first == 0 || second == 0);
  return {low_of(~first), high_of(~first), low_of(~second), high_of(~second)};
}

}  // namespace iabn::kernels::cuda
