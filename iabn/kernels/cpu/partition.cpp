// The cuts and their constants. Note [Which data stay in cache]: a direction reads its input twice, for the reduction
// and for the application. Where the channels of a unit fit the second-level cache, one thread does both passes of it
// and memory is read once. Where they do not, all threads do the first pass of a group of units and then the second,
// so that the group stays in the shared cache.

#include "iabn/kernels/cpu/partition.h"

namespace iabn::kernels::cpu {
namespace {

// Contiguous: elements of a channel in one chunk, which bounds what a float32 lane accumulates (2048 terms with 16
// lanes). Channels last: elements of all channels, at least. Either way some microseconds of work.
constexpr int64_t kChunkElements = 32768;
constexpr int64_t kMaxChunkRows = 4096;
constexpr int64_t kMinChunkRows = 64;
constexpr int64_t kWantedChunks = 64;

constexpr int64_t kTaskBytes = 128 << 10;  // below this, starting a task shows
// Both passes of a channel in one thread: second-level cache (1 MiB here) plus a core's share of the next one.
// Zen 5, float32 [32, 64, 56, 56], 802 KB per channel in backward, passes of backward: 6.1 with 768 KiB (by groups),
// 4.7 with 1.5 MiB, 4.9 with 4 MiB.
constexpr int64_t kUnitBytes = 1536 << 10;
constexpr int64_t kNarrowUnitBytes = 768 << 10;  // channels last: the strided access costs what a larger one gains
constexpr int64_t kGroupBytes = 12 << 20;        // of a shared cache of 32 MiB
constexpr int64_t kCachedTensorBytes = 16 << 20;
constexpr int64_t kFewChannels = 16;   // fewer units than this do not feed all threads
constexpr int64_t kFoldColumns = 64;   // columns that a folded row should have at least
constexpr int64_t kFoldMultiple = 16;  // and the multiple it should be: the lanes of AVX-512
constexpr int64_t kUnitColumns = 64;   // narrowest channels-last unit: 256 bytes of a float32 row

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }
int64_t round_up(int64_t a, int64_t multiple) { return divide_up(a, multiple) * multiple; }

/// The same memory in the form that suits the kernels: [N, C] and [N, C, 1] as rows, one channel as one segment.
Shape normalized(Shape shape) {
  if (shape.c == 1) return {1, 1, shape.n * shape.s, Layout::kContiguous};
  if (shape.s == 1) shape.layout = Layout::kChannelsLast;
  return shape;
}

}  // namespace

Partition::Partition(const Shape& shape, int64_t element_bytes, int64_t streams) : shape_(normalized(shape)) {
  if (shape.numel() == 0) return;
  exceeds_cache_ = shape.numel() * element_bytes > kCachedTensorBytes;
  if (contiguous()) {
    cut_contiguous(element_bytes, streams);
  } else {
    cut_channels_last(element_bytes, streams);
  }
}

void Partition::cut_contiguous(int64_t element_bytes, int64_t streams) {
  const auto [n, c, s, layout] = shape_;
  units_ = c;
  if (s >= kChunkElements) {
    pieces_ = divide_up(s, kChunkElements);
    piece_length_ = round_up(divide_up(s, pieces_), 64);
    pieces_ = divide_up(s, piece_length_);
    segments_ = 1;
    chunks_ = n * pieces_;
  } else {
    segments_ = kChunkElements / s;
    piece_length_ = s;
    chunks_ = divide_up(n, segments_);
  }
  const int64_t unit_bytes = n * s * element_bytes * streams;
  const int64_t block_bytes = divide_up(unit_bytes, chunks_);
  blocks_per_task_ = divide_up(kTaskBytes, block_bytes);
  if (unit_bytes <= kUnitBytes && c >= kFewChannels) {
    // Neighbouring short channels share cache lines and pages: keep them with one thread.
    units_per_task_ = std::min(divide_up(kTaskBytes, unit_bytes), divide_up(c, kFewChannels));
  } else {
    units_per_group_ = std::max<int64_t>(1, kGroupBytes / unit_bytes);
  }
}

void Partition::cut_channels_last(int64_t element_bytes, int64_t streams) {
  const int64_t all_rows = shape_.count();
  int64_t fold = 1;
  while (shape_.c * fold < kFoldColumns || (fold > 1 && shape_.c * fold % kFoldMultiple != 0)) fold *= 2;
  fold_ = std::min(fold, all_rows);
  rows_ = all_rows / fold_;
  const int64_t wanted_rows = std::max(divide_up(rows_, kWantedChunks), kChunkElements / columns());
  rows_per_chunk_ = std::clamp(round_up(wanted_rows, 8), kMinChunkRows, kMaxChunkRows);
  chunks_ = divide_up(rows_, rows_per_chunk_) + (all_rows % fold_ != 0 ? 1 : 0);

  const int64_t column_bytes = rows_ * element_bytes * streams;
  const int64_t fitting = kNarrowUnitBytes / column_bytes / kUnitColumns * kUnitColumns;
  const int64_t shared = round_up(divide_up(columns(), kFewChannels), kUnitColumns);
  const int64_t narrow = std::min({fitting, shared, kMaxTileColumns});
  // Folded rows are one unit, and one unit is one thread's: only where it is short.
  const bool many_units = fold_ == 1 && narrow > 0 && divide_up(columns(), narrow) >= kFewChannels / 4;
  const bool fused = narrow > 0 && (many_units || columns() * column_bytes <= 2 * kTaskBytes);
  unit_columns_ = fused && fold_ == 1 ? narrow : (fold_ == 1 ? kMaxTileColumns : columns());
  units_ = fold_ == 1 ? divide_up(columns(), unit_columns_) : 1;
  units_per_task_ = fused ? 1 : 0;
  units_per_group_ = units_;
  blocks_per_task_ = divide_up(kTaskBytes, std::min(columns(), unit_columns_) * rows_per_chunk_ * element_bytes);
}

Block Partition::block(int64_t unit, int64_t chunk) const {
  const auto [n, c, s, layout] = shape_;
  Block block;
  if (contiguous()) {
    const int64_t segment = chunk / pieces_ * segments_;
    const int64_t begin = chunk % pieces_ * piece_length_;
    block.column = unit;
    block.offset = (segment * c + unit) * s + begin;
    block.segments = {std::min(segments_, n - segment), std::min(piece_length_, s - begin), c * s};
    return block;
  }
  const int64_t row = chunk * rows_per_chunk_;
  if (unfolded(chunk)) {
    block.offset = rows_ * columns();
    block.columns = c;
    block.tile = {shape_.count() - rows_ * fold_, c, c};
    return block;
  }
  block.column = unit * unit_columns_;
  block.columns = std::min(unit_columns_, columns() - block.column);
  block.offset = row * columns() + block.column;
  block.tile = {std::min(rows_per_chunk_, rows_ - row), block.columns, columns()};
  return block;
}

int64_t Partition::count(int64_t chunk) const {
  const Block first = block(0, chunk);
  return contiguous() ? first.segments.count * first.segments.length : first.tile.rows;
}

}  // namespace iabn::kernels::cpu
