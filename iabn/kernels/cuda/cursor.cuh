#pragma once

// A thread's way through its share of a Walk, forwards or backwards, without a division per step.

#include "iabn/kernels/cuda/launch_policy.h"
#include "iabn/kernels/cuda/walk.h"

namespace iabn::kernels::cuda {

enum class Direction { kForward, kBackward };

template <int kWidth, Layout kLayout, Direction kDirection>
class Cursor {
 public:
  /// Channels that a vector holds side by side; an element j belongs to slot j, or all to slot 0.
  static constexpr int kSlots = kLayout == Layout::kChannelsLast ? kWidth : 1;
  static IABN_HOST_DEVICE constexpr int slot(int j) { return kLayout == Layout::kChannelsLast ? j : 0; }

  __device__ __forceinline__ explicit Cursor(const Walk& walk) {
    // Backward launches visit blocks and items last first: the memory that the pass before touched last.
    const int64_t block = kDirection == Direction::kForward ? blockIdx.x : gridDim.x - 1 - blockIdx.x;
    split = block / walk.tiles;
    const int64_t tile = block - split * walk.tiles;
    row = static_cast<int>(threadIdx.x) / walk.columns;
    column = static_cast<int>(threadIdx.x) - row * walk.columns;
    const int64_t vector = tile * walk.columns + column;
    tile_channel = tile * walk.columns * kSlots;

    const int64_t begin = split * walk.chunk;
    const int64_t left = walk.items - begin;
    const int length = static_cast<int>(left < walk.chunk ? left : walk.chunk);
    const bool active =
        row < walk.rows && row < length && (kLayout == Layout::kContiguous || vector < walk.item_vectors);
    if (!active) return;
    count = (length - row - 1) / walk.rows + 1;

    int64_t item = begin + row;
    stride_ = walk.stride;
    if constexpr (kDirection == Direction::kBackward) {
      item += int64_t{count - 1} * walk.rows;
      stride_ = -stride_;
    }
    if constexpr (kLayout == Layout::kChannelsLast) {
      offset_ = item * walk.channels + vector * kWidth;
    } else {
      const int64_t run = item / walk.item_vectors;
      const int64_t position = item - run * walk.item_vectors;
      offset_ = (run * walk.channels + tile) * walk.item_vectors * kWidth + position * kWidth;
      wrap_ = kDirection == Direction::kForward ? walk.wrap : -walk.wrap;
      room_ = clamp(kDirection == Direction::kForward ? walk.item_vectors - position : position + 1);
      run_vectors_ = clamp(walk.item_vectors);
      turn_ = walk.turn;
    }
  }

  /// Element offset of the current item; moves on to the thread's next one.
  __device__ __forceinline__ int64_t next() {
    const int64_t result = offset_;
    offset_ += stride_;
    if constexpr (kLayout == Layout::kContiguous) {
      room_ -= turn_;
      if (room_ <= 0) {
        room_ += run_vectors_;
        offset_ += wrap_;
      }
    }
    return result;
  }

  /// First channel of the thread's vector.
  __device__ __forceinline__ int64_t channel() const { return tile_channel + column * kSlots; }

  int64_t split;
  int64_t tile_channel;  // first channel of the block's tile
  int row;               // the thread's turn in its column; walk.rows and above are idle
  int column;
  int count = 0;  // items of this thread

 private:
  // A thread moves less than kMaxChunk vectors in all, so a run longer than that may be cut short without being missed.
  static __device__ __forceinline__ int clamp(int64_t vectors) {
    constexpr int64_t kLongest = 2 * LaunchPolicy::kMaxChunk;
    return static_cast<int>(vectors < kLongest ? vectors : kLongest);
  }

  int64_t offset_ = 0;
  int64_t stride_ = 0;
  int64_t wrap_ = 0;     // contiguous: from the end of a run to the next one of this channel
  int room_ = 0;         // contiguous: vectors left in the run, this one included, in the direction of travel
  int run_vectors_ = 0;  // contiguous: vectors of a run
  int turn_ = 0;
};

/// Calls f(offsets) for the next `left` items of the cursor: kBatch offsets at a time, the rest in halving batches.
template <int kBatch, class C, class F>
__device__ __forceinline__ void for_each_batch(C& cursor, int left, F&& f) {
#pragma unroll 1
  for (; left >= kBatch; left -= kBatch) {
    int64_t offsets[kBatch];
#pragma unroll
    for (int u = 0; u < kBatch; ++u) offsets[u] = cursor.next();
    f(offsets);
  }
  if constexpr (kBatch > 1) for_each_batch<kBatch / 2>(cursor, left, f);
}

}  // namespace iabn::kernels::cuda
