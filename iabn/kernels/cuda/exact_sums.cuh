#pragma once

// Sums over the blocks of a group while all of them run: one hop through the L2, the same bits whatever the order.
//
// Note [Exact sums]
// A block's part of a sum is one float32 or two: a 24-bit integer times a power of two, 2^-149 at least. Numbers of
// similar size are added up in one 64-bit word, a limb: limb k takes those whose last bit is worth 2^(24k - 149) to
// 2^(24k - 126), as integers of at most 47 bits in the unit 2^(24k - 149). Integer addition is associative, so that a
// limb holds the exact sum of what was added, whoever came first. In a word's upper 8 bits the contributions are
// counted; below, each is stored plus 2^47, so that no sum is negative (160 blocks: below 2^56).
// Every block adds to exactly one limb per term: a term is complete when its limbs have counted as many contributions
// as there are blocks. Data and counts are one word, so there is no fence and no barrier. The limbs where numbers of
// usual size end up are looked at first. Words start as zero; the stream's next launch clears them (exchange_area.h).

#include <cstdint>

#include "iabn/kernels/cuda/exchange.cuh"

namespace iabn::kernels::cuda {

/// From one limb to another. Limb k has float32 from 2^(24k - 126) up to 2^(24k - 102); 3 to 6: 2^-54 to 2^42.
struct Limbs {
  int first, last;
};

/// The words of one channel, kTerms numbers from each block; those of a slab's kChannels lie side by side: what a warp
/// adds to them, and polls, are whole lines. [128,512,28,28] backward: 3.69 passes, a channel's words side by
/// side 3.99. Op::usual(term): the limbs in which numbers of usual size end up, four at most.
template <class Op, int kChannels>
struct ExactSums {
  static constexpr int kTerms = 4;
  static constexpr int kLimbs = 11;
  static_assert(Exchange::kSumWords == kTerms * (kLimbs + 1));

  uint64_t* words;  // the channel's first one

  __device__ __forceinline__ void post(int term, float value) const {
    const uint32_t bits = __float_as_uint(value);
    const int exponent = static_cast<int>(bits >> 23 & 0xff);
    if (exponent == 0xff) return add_to(word_of(term, kOverflow), kContribution);
    const int last_bit = exponent > 0 ? exponent - 1 : 0;
    const uint64_t mantissa = (bits & 0x7fffff) | (exponent > 0 ? 1u << 23 : 0u);
    const uint64_t number = mantissa << last_bit % kSpacing;
    const int limb = mantissa == 0 ? Op::usual(term).first : last_bit / kSpacing;
    add_to(word_of(term, limb), kContribution + (value < 0 ? kBias - number : kBias + number));
  }

  /// Brings the usual words of the slab's channels into the L2, if `words` are those of its first; `threads` together.
  __device__ __forceinline__ void touch_all(int thread, int threads) const {
    constexpr int kLine = 16, kLines = (kChannels + kLine - 1) / kLine;
    for (int i = thread; i < kTerms * kMostUsual * kLines; i += threads) {
      const int term = i / kLines / kMostUsual, limb = Op::usual(term).first + i / kLines % kMostUsual;
      if (limb <= Op::usual(term).last) touch(word_of(term, limb) + i % kLines * kLine);
    }
  }

  /// The sums, waiting for all `blocks`; NaN where an infinity or a NaN was added. `unusual`: false at first; whether
  /// numbers have been found outside of the usual limbs, which costs time: later calls then look at all at once.
  __device__ __forceinline__ void take(int blocks, double (&sums)[kTerms], bool& unusual) const {
    // About 20 us: others are rarely that late. With 8, [64,256,56,56] backward 4.8 passes instead of 3.9.
    constexpr int kTries = 32;
    uint64_t limbs[kTerms][kMostUsual] = {};
    bool complete = false;
    // The sums are made behind this loop, not where it ends: lanes that are ready at different times would make them
    // one after the other, which costs 0.7 us.
    for (int tries = 0; tries < kTries && !complete && !unusual; ++tries) complete = read_usual(blocks, limbs);
#pragma unroll
    for (int t = 0; t < kTerms; ++t) {
      sums[t] = 0;
#pragma unroll
      for (int i = 0; i < kMostUsual; ++i) sums[t] += total(limbs[t][i], Op::usual(t).first + i);
    }
    if (complete) return;
    while (!take_all(blocks, sums)) {
    }
    unusual = !read_usual(blocks, limbs);
  }

 private:
  static constexpr int kOverflow = kLimbs;  // number of the word that counts infinities and NaN
  static constexpr int kMostUsual = 4;
  static constexpr int kSpacing = 24;  // bits from one limb to the next
  static constexpr uint64_t kContribution = uint64_t{1} << 56;
  static constexpr uint64_t kBias = uint64_t{1} << 47;

  static __device__ __forceinline__ void add_to(uint64_t* at, uint64_t number) {
    asm volatile("red.relaxed.gpu.global.add.L2::cache_hint.u64 [%0], %1, %2;" ::"l"(at), "l"(number), "l"(stay_in_l2())
                 : "memory");
  }
  __device__ __forceinline__ uint64_t* word_of(int term, int limb) const {
    return words + (term * (kLimbs + 1) + limb) * kChannels;
  }
  static __device__ __forceinline__ int contributions(uint64_t word) { return static_cast<int>(word / kContribution); }
  /// The sum of a limb's contributions.
  static __device__ __forceinline__ double total(uint64_t word, int limb) {
    const auto number = static_cast<int64_t>(word % kContribution - contributions(word) * kBias);
    const double unit = __longlong_as_double(int64_t{1023 - 149 + kSpacing * limb} << 52);  // 2^(24 limb - 149)
    return static_cast<double>(number) * unit;
  }

  /// False: something is missing from the usual limbs.
  __device__ __forceinline__ bool read_usual(int blocks, uint64_t (&limbs)[kTerms][kMostUsual]) const {
#pragma unroll
    for (int t = 0; t < kTerms; ++t) {
#pragma unroll
      for (int i = 0; i < kMostUsual; ++i) {
        if (Op::usual(t).first + i <= Op::usual(t).last) limbs[t][i] = peek(word_of(t, Op::usual(t).first + i));
      }
    }
    bool complete = true;
#pragma unroll
    for (int t = 0; t < kTerms; ++t) {
      int count = 0;
#pragma unroll
      for (int i = 0; i < kMostUsual; ++i) count += contributions(limbs[t][i]);
      complete &= count == blocks;
    }
    return complete;
  }

  /// The sums from all limbs; false: something is missing.
  __device__ __forceinline__ bool take_all(int blocks, double (&sums)[kTerms]) const {
    int counts[kTerms] = {};
#pragma unroll
    for (int t = 0; t < kTerms; ++t) sums[t] = 0;
#pragma unroll 1
    for (int limb = 0; limb <= kOverflow; ++limb) {
      uint64_t word[kTerms];
#pragma unroll
      for (int t = 0; t < kTerms; ++t) word[t] = peek(word_of(t, limb));
#pragma unroll
      for (int t = 0; t < kTerms; ++t) {
        counts[t] += contributions(word[t]);
        if (limb < kLimbs) {
          sums[t] += total(word[t], limb);
        } else if (word[t] != 0) {
          sums[t] = __longlong_as_double(0x7ff8000000000000);
        }
      }
    }
    bool complete = true;
#pragma unroll
    for (int t = 0; t < kTerms; ++t) complete &= counts[t] == blocks;
    return complete;
  }
};

}  // namespace iabn::kernels::cuda
