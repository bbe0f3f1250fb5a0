#pragma once

// How the thread blocks of one launch share a tensor.
//
// Both layouts are seen as columns of items. An item is one aligned vector of elements:
//   channels last  a column is one vector of neighbouring channels, its items are the N*S rows;
//   contiguous     a column is one channel, its items are the vectors of its N runs of S elements.
// A contiguous tensor with short runs that no wide vector divides (7x7, 14x14) is folded: its N rows of C*S elements
// are walked as channels last, every position of a row as a channel of its own. The partial results then are
// those of C*S columns, and whoever reads them or needs coefficients divides by `fold`.
//
// A block owns a tile (columns side by side) and one split (a chunk of consecutive items); the threads of a column take
// turns in the chunk. Block number = split * tiles + tile, so that blocks that run together read neighbouring memory.

#include <cstdint>

#include "iabn/activation.h"
#include "iabn/kernels/view.h"

namespace iabn::kernels::cuda {

struct Walk {
  int64_t channels = 0;      // C, or C*S where folded
  int64_t fold = 1;          // columns per channel: S where folded
  int64_t items = 0;         // per column
  int64_t chunk = 0;         // items per split; below 2^30, so that positions inside a chunk are 32-bit
  int64_t splits = 0;        // 0 for an empty tensor
  int64_t tiles = 0;         // channels last: tiles of a row; contiguous: channels
  int64_t item_vectors = 0;  // channels last: vectors of a row; contiguous: vectors of one run of S elements
  int64_t stride = 0;        // elements between two items of the same thread
  int64_t wrap = 0;          // contiguous: elements skipped at the end of a run, to the same channel's next run
  int columns = 1;           // vectors side by side in a tile
  int rows = 1;              // threads per column
  int turn = 0;              // contiguous: `rows` modulo item_vectors, the part of a step inside a run
  int item_count = 1;        // values of one channel in an item: 1 or the width of the vector

  int64_t blocks() const { return tiles * splits; }
  /// Values per channel in a split.
  IABN_HOST_DEVICE int64_t split_count(int64_t split) const {
    const int64_t left = items - split * chunk;
    return (left < chunk ? left : chunk) * item_count;
  }
};

}  // namespace iabn::kernels::cuda
