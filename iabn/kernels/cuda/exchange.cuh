#pragma once

// Numbers that blocks of one launch hand to each other while all of them run.
//
// Note [Flagged words]
// Two floats travel as one 64-bit word, read and written by relaxed device-scope accesses, which are single-copy
// atomic: a reader sees a word as it was before or as it was written, never a half. Every word starts as kPending and
// has one writer and one reader, who sets it back to kPending: a launch leaves the area as it found it. A word that has
// arrived is never kPending, since its upper float is no NaN but the canonical one. The data are their own signal, so
// there is no counter, no fence and no barrier.
//
// Two hops: every block posts a partial result per channel; one warp per channel merges them in the order of the blocks
// and posts the channel's four coefficients to every block of the group.

#include <cstdint>

namespace iabn::kernels::cuda {

constexpr uint64_t kPending = ~uint64_t{0};

/// Note [Exchange in the L2]: the words are few and must be quick to reach, while whole tensors stream through the L2.
/// So they are asked to stay there, and touched a while before they are needed. [128,512,28,28] in groups of 132
/// blocks, backward: 3.9 passes, without 4.25.
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
__device__ __forceinline__ void post(uint64_t* word, float low, float high) { store_word(word, flagged(low, high)); }

__device__ __forceinline__ float low_of(uint64_t word) { return __uint_as_float(static_cast<uint32_t>(word)); }
__device__ __forceinline__ float high_of(uint64_t word) { return __uint_as_float(static_cast<uint32_t>(word >> 32)); }

/// The sum over `lanes` neighbouring lanes (a power of two), the same bits in all of them. All lanes of the warp call
/// it.
__device__ __forceinline__ float sum_over(int lanes, float value) {
  for (int distance = lanes / 2; distance > 0; distance /= 2) {
    value += __shfl_xor_sync(0xffffffffu, value, distance);
  }
  return value;
}

/// The area of one launch.
struct Exchange {
  static constexpr int kCoefficientWords = 2;
  /// Partial results that a lane of a merging warp takes; groups have at most 32 * kRounds blocks.
  static constexpr int kRounds = 5;

  uint64_t* words = nullptr;
  int64_t channels = 0;  // of all slabs, the last one's missing ones included
  int blocks = 0;        // of a group

  static constexpr size_t bytes(int64_t channels, int blocks, int partial_words) {
    return static_cast<size_t>(channels * blocks * (partial_words + kCoefficientWords)) * sizeof(uint64_t);
  }

  /// The words in which a block finds a channel's coefficients.
  __device__ __forceinline__ uint64_t* coefficients(int64_t channel, int block) const {
    return words + (block * channels + channel) * kCoefficientWords;
  }
  __device__ __forceinline__ uint64_t* partial(int64_t channel, int block, int partial_words) const {
    return words + channels * blocks * kCoefficientWords + (channel * blocks + block) * partial_words;
  }

  /// The four coefficients of a channel, waiting for them; one thread of each block.
  __device__ __forceinline__ float4 take_coefficients(int64_t channel, int block) const {
    uint64_t* at = coefficients(channel, block);
    uint64_t first, second;
    do {
      first = peek(at);
      second = peek(at + 1);
    } while (first == kPending || second == kPending);
    store_word(at, kPending);
    store_word(at + 1, kPending);
    return {low_of(first), high_of(first), low_of(second), high_of(second)};
  }
};

/// A warp's work as merger: `lanes` lanes share a channel, so that a warp has up to four at a time.
template <class Op>
class Merger {
 public:
  static constexpr int kRounds = Exchange::kRounds;
  static constexpr int kWords = Op::kPartialWords;

  /// `count(b)` is the number of elements per channel that block b contributes.
  template <class Count>
  __device__ __forceinline__ Merger(const Exchange& exchange, Count&& count) : exchange_(exchange) {
    lanes_ = 8;
    while (lanes_ * kRounds < exchange.blocks) lanes_ *= 2;
    lane_ = static_cast<int>(threadIdx.x) % lanes_;
#pragma unroll
    for (int r = 0; r < kRounds; ++r) counts_[r] = block(r) < exchange.blocks ? count(block(r)) : 0.f;
  }

  __device__ __forceinline__ int lanes() const { return lanes_; }
  /// Channels at a time, and which of them is this lane's.
  __device__ __forceinline__ int channels() const { return 32 / lanes_; }
  __device__ __forceinline__ int which() const { return static_cast<int>(threadIdx.x) % 32 / lanes_; }
  __device__ __forceinline__ bool leads() const { return lane_ == 0; }

  __device__ __forceinline__ void touch_partials(int64_t channel) const {
#pragma unroll
    for (int r = 0; r < kRounds; ++r) {
      if (block(r) < exchange_.blocks) touch(exchange_.partial(channel, block(r), kWords));
    }
  }

  /// Waits for the partial results of all blocks and merges them in a fixed order; the same in all lanes of the
  /// channel. All lanes of the warp call it; those without a channel pass one that is not `wanted`.
  __device__ __forceinline__ typename Op::template Accumulator<1> take(int64_t channel, bool wanted, float total) {
    uint64_t words[kRounds][kWords] = {};
    bool complete;
    do {
      complete = true;
#pragma unroll
      for (int r = 0; r < kRounds; ++r) {
        if (!wanted || block(r) >= exchange_.blocks) continue;
        const uint64_t* at = exchange_.partial(channel, block(r), kWords);
#pragma unroll
        for (int w = 0; w < kWords; ++w) words[r][w] = peek(at + w);
      }
#pragma unroll
      for (int r = 0; r < kRounds; ++r) {
#pragma unroll
        for (int w = 0; w < kWords; ++w) complete &= words[r][w] != kPending;
      }
    } while (!complete);
    __syncwarp();
    return Op::merge_partials(words, counts_, total, lanes_);
  }

  /// All lanes of the channel, the same numbers. Also clears what take() read.
  __device__ __forceinline__ void post_coefficients(int64_t channel, float4 numbers) const {
    for (int b = lane_; b < exchange_.blocks; b += lanes_) {
      uint64_t* at = exchange_.coefficients(channel, b);
      post(at, numbers.x, numbers.y);
      post(at + 1, numbers.z, numbers.w);
    }
    for (int b = lane_; b < exchange_.blocks; b += lanes_) {
#pragma unroll
      for (int w = 0; w < kWords; ++w) store_word(exchange_.partial(channel, b, kWords) + w, kPending);
    }
  }

 private:
  __device__ __forceinline__ int block(int round) const { return lane_ + round * lanes_; }

  const Exchange& exchange_;
  int lanes_, lane_;
  float counts_[kRounds];
};

}  // namespace iabn::kernels::cuda
