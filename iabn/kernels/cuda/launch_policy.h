#pragma once

// Every tuned number of a launch. Kernels see the constants as template arguments and the rest as a Walk.
//
// Grids depend on the shape, the alignment and the device's number of multiprocessors, never on its load: same input
// and same device give the same bits.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <initializer_list>

#include "iabn/kernels/cuda/walk.h"
#include "iabn/kernels/kernels.h"

namespace iabn::kernels::cuda {

/// Measured on an H100 80GB with dev/ladder/cuda_two_pass_bench.cu: microseconds, forward + backward, bf16 unless said.
struct LaunchPolicy {
  static constexpr int kThreads = 256;
  static constexpr int kVectorBytes = 16;
  /// Width of a channels-last tile: whole 128-byte lines, and narrow enough that the partial results stay few.
  static constexpr int kTileBytes = 512;
  static constexpr int64_t kMaxChunk = int64_t{1} << 29;

  /// Blocks per multiprocessor that the register limits below allow; one such set is a wave.
  static constexpr int kStatisticsBlocks = 4;
  static constexpr int kApplyBlocks = 4;
  static constexpr int kBackwardReduceBlocks = 2;
  static constexpr int kBackwardApplyBlocks = 3;
  /// Channels last writes C partial results per split, so one wave: [128,256,56,56] 230+365; two waves 241+371.
  static constexpr int kChannelsLastWaves = 1;
  /// Contiguous writes one per block, so more for balance: [128,512,28,28] 133+191; 8 waves 137+190, 16 136+192.
  static constexpr int kContiguousWaves = 4;
  /// 16-byte items of a thread in an application, which has no partial results: blocks short enough to balance, long
  /// enough to pay for their start. [128,256,56,56] float32 contiguous 421+686; 16 items 425+690, 32 433+697.
  static constexpr int kApplyItems = 8;

  /// Contiguous tensors with runs of narrow vectors are folded (walk.h) where they have at least so many rows; fewer do
  /// not pay for the C*S partial results. [128,2048,7,7] 37+64, unfolded 60+78; [32,256,14,14] 16.4+21.7, unfolded
  /// 14.9+17.8.
  static constexpr int64_t kFoldRows = 64;
  /// Bytes of the vectors below which it pays. The backward reduction writes twice the partial results:
  /// [128,1024,14,14] (8-byte vectors) 68+115 with all four kernels folded, 89+109 with none.
  static constexpr int kFoldBelow = 16;
  static constexpr int kFoldBackwardReduceBelow = 8;

  /// Vectors that a thread loads before it uses the first, of each input tensor. Twice as many in backward, with two
  /// blocks per multiprocessor: within noise at [128,256,56,56], 5 % slower at [128,2048,7,7].
  IABN_HOST_DEVICE static constexpr int forward_batch(int vector_bytes) { return vector_bytes == kVectorBytes ? 4 : 8; }
  IABN_HOST_DEVICE static constexpr int backward_batch(int vector_bytes) {
    return vector_bytes == kVectorBytes ? 2 : 4;
  }
};

/// A tensor as the kernels walk it: shape, vector width, and how many columns make a channel (Walk::fold).
struct View {
  Shape shape;
  int width = 1;
  int64_t fold = 1;
};

/// Elements per vector: the most that the rows (channels last) or runs (contiguous) and all pointers are aligned to.
template <class T>
int vector_width(const Shape& shape, uintptr_t pointer_bits) {
  const uintptr_t bits =
      static_cast<uintptr_t>(shape.layout == Layout::kChannelsLast ? shape.c : shape.s) * sizeof(T) | pointer_bits;
  int width = LaunchPolicy::kVectorBytes / static_cast<int>(sizeof(T));
  while (width > 1 && bits % (static_cast<size_t>(width) * sizeof(T)) != 0) width /= 2;
  return width;
}

/// The view of a tensor behind these pointers; vectors narrower than `fold_below` bytes are avoided by folding.
template <class T>
View make_view(Shape shape, std::initializer_list<const void*> pointers, int fold_below) {
  uintptr_t bits = 0;
  for (const void* pointer : pointers) bits |= reinterpret_cast<uintptr_t>(pointer);
  if (shape.c == 1) shape = {1, 1, shape.n * shape.s, Layout::kContiguous};  // one run in either layout
  View view{shape, vector_width<T>(shape, bits), 1};
  const bool wide = view.width * static_cast<int>(sizeof(T)) >= fold_below;
  if (shape.layout == Layout::kChannelsLast || wide || shape.n < LaunchPolicy::kFoldRows || shape.numel() == 0) {
    return view;
  }
  const Shape folded{shape.n, shape.c * shape.s, 1, Layout::kChannelsLast};
  const int width = vector_width<T>(folded, bits);
  return width > view.width ? View{folded, width, shape.s} : view;
}

/// Shares a tensor among about `blocks` thread blocks. A thread gets at least `batch` items where there are enough, and
/// at most `max_items`.
inline Walk make_walk(const View& view, int element_bytes, int batch, int64_t blocks, int64_t max_items) {
  constexpr int kThreads = LaunchPolicy::kThreads;
  const auto quotient = [](int64_t a, int64_t b) { return (a + b - 1) / b; };
  const Shape& shape = view.shape;
  Walk walk;
  walk.channels = shape.c;
  walk.fold = view.fold;
  if (shape.numel() == 0) return walk;
  if (shape.layout == Layout::kChannelsLast) {
    const int64_t widest = std::min(kThreads, LaunchPolicy::kTileBytes / (view.width * element_bytes));
    walk.items = shape.n * shape.s;
    walk.item_vectors = shape.c / view.width;
    walk.tiles = quotient(walk.item_vectors, widest);
    walk.columns = static_cast<int>(quotient(walk.item_vectors, walk.tiles));
    walk.rows = kThreads / walk.columns;
    walk.stride = walk.rows * shape.c;
  } else {
    walk.item_vectors = shape.s / view.width;
    walk.items = shape.n * walk.item_vectors;
    walk.tiles = shape.c;
    walk.rows = kThreads;
    walk.turn = static_cast<int>(walk.rows % walk.item_vectors);
    walk.stride = walk.rows / walk.item_vectors * shape.c * shape.s + walk.turn * view.width;
    walk.wrap = (shape.c - 1) * shape.s;
    walk.item_count = view.width;
  }
  const int64_t most = quotient(walk.items, int64_t{walk.rows} * batch);
  const int64_t fewest = quotient(walk.items, std::min(max_items * walk.rows, LaunchPolicy::kMaxChunk));
  const int64_t wanted = std::max(fewest, std::min(most, std::max(int64_t{1}, blocks / walk.tiles)));
  walk.chunk = quotient(quotient(walk.items, wanted), walk.rows) * walk.rows;
  walk.splits = quotient(walk.items, walk.chunk);
  return walk;
}

/// For a reduction: few enough splits that merging them costs little.
inline Walk reduction_walk(const View& view, int element_bytes, int batch, int64_t wave) {
  const int waves =
      view.shape.layout == Layout::kChannelsLast ? LaunchPolicy::kChannelsLastWaves : LaunchPolicy::kContiguousWaves;
  return make_walk(view, element_bytes, batch, wave * waves, LaunchPolicy::kMaxChunk / LaunchPolicy::kThreads);
}

/// For an application: short blocks.
inline Walk application_walk(const View& view, int element_bytes, int batch, int64_t wave) {
  return make_walk(view, element_bytes, batch, wave,
                   LaunchPolicy::kApplyItems * LaunchPolicy::kVectorBytes / (view.width * element_bytes));
}

template <class T>
Walk statistics_walk(const View& view, int sm_count) {
  return reduction_walk(view, sizeof(T), LaunchPolicy::forward_batch(view.width * sizeof(T)),
                        int64_t{sm_count} * LaunchPolicy::kStatisticsBlocks);
}

template <class T>
Walk apply_walk(const View& view, int sm_count) {
  return application_walk(view, sizeof(T), LaunchPolicy::forward_batch(view.width * sizeof(T)),
                          int64_t{sm_count} * LaunchPolicy::kApplyBlocks);
}

template <class T>
Walk backward_reduce_walk(const View& view, int sm_count) {
  return reduction_walk(view, sizeof(T), LaunchPolicy::backward_batch(view.width * sizeof(T)),
                        int64_t{sm_count} * LaunchPolicy::kBackwardReduceBlocks);
}

template <class T>
Walk backward_apply_walk(const View& view, int sm_count) {
  return application_walk(view, sizeof(T), LaunchPolicy::backward_batch(view.width * sizeof(T)),
                          int64_t{sm_count} * LaunchPolicy::kBackwardApplyBlocks);
}

}  // namespace iabn::kernels::cuda
