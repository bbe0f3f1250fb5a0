#pragma once

// Internal: how a tensor is cut into blocks for threads, and in which order the blocks are visited.
//
// A *unit* holds whole channels: one channel of a contiguous tensor, a group of neighbouring channels of a
// channels-last one. A *chunk* is a part of every channel's elements: segments of a contiguous tensor, rows of a
// channels-last one. A block is one chunk of one unit. Chunks depend on the shape alone, and what the blocks of a
// channel yield is merged in the order of the chunks: the bits of a result depend neither on the number of threads nor
// on the order of visits.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "iabn/kernels/cpu/instruction_sets.h"
#include "iabn/kernels/cpu/kernels.h"

namespace iabn::kernels::cpu {

/// A coefficient for the vector kernels: the same number, but a NaN is the one without payload. See narrow().
template <class A>
A quiet(A value) {
  return std::isnan(value) ? std::numeric_limits<A>::quiet_NaN() : value;
}

struct Block {
  int64_t offset = 0;  // of the first element, from the start of the tensor
  int64_t column = 0;  // first one; a column is a channel, see Partition::fold for the exception
  int64_t columns = 1;
  Segments segments;  // contiguous
  Tile tile;          // channels last
};

class Partition {
 public:
  /// `streams`: tensors that both passes of a fused direction read (1 forward: x; 2 backward: z and d_z).
  Partition(const Shape& shape, int64_t element_bytes, int64_t streams);

  bool contiguous() const { return shape_.layout == Layout::kContiguous; }
  int64_t channels() const { return shape_.c; }
  int64_t count() const { return shape_.count(); }
  int64_t chunks() const { return chunks_; }
  int64_t units() const { return units_; }
  /// The tensor is too large to be found in a cache by whoever reads it next: see store_past_cache().
  bool exceeds_cache() const { return exceeds_cache_; }

  /// Channels-last rows of few channels would leave most lanes empty, so `fold` rows are taken for one row of
  /// fold*channels columns; column j holds elements of channel j % channels. Where the number of rows is no multiple,
  /// the last chunk has the remaining rows unfolded.
  int64_t fold() const { return fold_; }
  int64_t columns() const { return shape_.c * fold_; }

  Block block(int64_t unit, int64_t chunk) const;
  /// Elements of each column in a chunk, and the columns that the chunk has.
  int64_t count(int64_t chunk) const;
  int64_t columns(int64_t chunk) const { return unfolded(chunk) ? shape_.c : columns(); }

  /// body(block, chunk) for every block.
  template <class Body>
  void each_block(const Executor& executor, Body&& body) const {
    run_blocks(executor, Order::kForwards, 0, units_, body);
  }

  /// first(block, chunk) for every block of a unit, then between(first channel, last channel + 1), then
  /// second(block, chunk). The second pass walks backwards, from what the cache still holds: within a task, and every
  /// thread of a group within its own tasks. The whole group backwards would hand each thread what another one has in
  /// its cache (float32 channels-last [32, 64, 56, 56], forward on two threads: 1.4 ms against 0.95).
  template <class First, class Between, class Second>
  void two_passes(const Executor& executor, First&& first, Between&& between, Second&& second) const {
    if (units_per_task_ > 0) {
      const int64_t tasks = (units_ + units_per_task_ - 1) / units_per_task_;
      executor.run(tasks, Order::kForwards, [&](int64_t task) {
        const int64_t end = std::min(units_, (task + 1) * units_per_task_);
        for (int64_t unit = task * units_per_task_; unit < end; ++unit) {
          for (int64_t chunk = 0; chunk < chunks_; ++chunk) first(block(unit, chunk), chunk);
          between(first_channel(unit), first_channel(unit + 1));
          for (int64_t chunk = chunks_ - 1; chunk >= 0; --chunk) second(block(unit, chunk), chunk);
        }
      });
      return;
    }
    for (int64_t begin = 0; begin < units_; begin += units_per_group_) {
      const int64_t end = std::min(units_, begin + units_per_group_);
      run_blocks(executor, Order::kForwards, begin, end, first);
      merge(executor, first_channel(begin), first_channel(end), between);
      run_blocks(executor, Order::kBackwards, begin, end, second);
    }
  }

 private:
  /// The step between the passes; by the calling thread where handing it out would cost more.
  template <class Between>
  void merge(const Executor& executor, int64_t begin, int64_t end, Between&& between) const {
    constexpr int64_t kFewValues = 8192;  // about 10 us
    constexpr int64_t kMergedChannels = 64;
    if ((end - begin) * fold_ * chunks_ <= kFewValues) return between(begin, end);
    executor.run((end - begin + kMergedChannels - 1) / kMergedChannels, Order::kForwards, [&](int64_t task) {
      const int64_t from = begin + task * kMergedChannels;
      between(from, std::min(end, from + kMergedChannels));
    });
  }

  void cut_contiguous(int64_t element_bytes, int64_t streams);
  void cut_channels_last(int64_t element_bytes, int64_t streams);
  bool unfolded(int64_t chunk) const { return !contiguous() && chunk * rows_per_chunk_ >= rows_; }
  int64_t first_channel(int64_t unit) const { return std::min(shape_.c, unit * unit_columns_); }

  template <class Body>
  void run_blocks(const Executor& executor, Order order, int64_t begin, int64_t end, Body&& body) const {
    const int64_t units = end - begin;
    const int64_t blocks = units * chunks_;
    const int64_t tasks = (blocks + blocks_per_task_ - 1) / blocks_per_task_;
    executor.run(tasks, order, [&](int64_t task) {
      const int64_t first = task * blocks_per_task_;
      const int64_t last = std::min(blocks, first + blocks_per_task_) - 1;
      for (int64_t at = first; at <= last; ++at) {
        const int64_t i = order == Order::kForwards ? at : last - (at - first);
        // The order of memory: all chunks of a channel (contiguous), all columns of a row (channels last).
        const int64_t unit = begin + (contiguous() ? i / chunks_ : i % units);
        const int64_t chunk = contiguous() ? i % chunks_ : i / units;
        body(block(unit, chunk), chunk);
      }
    });
  }

  Shape shape_;
  bool exceeds_cache_ = false;
  int64_t units_ = 0;
  int64_t chunks_ = 0;
  int64_t fold_ = 1;
  int64_t unit_columns_ = 1;
  int64_t units_per_task_ = 0;   // > 0: both passes of a unit are one task, its data stay in the thread's cache
  int64_t units_per_group_ = 1;  // else: both passes of a group of units, every thread working on it
  int64_t blocks_per_task_ = 1;

  // Contiguous: a chunk is `segments_` whole segments or, where one is longer than a chunk, a piece of one.
  int64_t segments_ = 0;
  int64_t pieces_ = 1;
  int64_t piece_length_ = 0;
  // Channels last.
  int64_t rows_ = 0;  // folded
  int64_t rows_per_chunk_ = 0;
};

}  // namespace iabn::kernels::cpu
