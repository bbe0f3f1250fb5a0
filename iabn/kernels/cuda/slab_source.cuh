#pragma once

// How the slab kernel cuts a tensor. A slab is what one group of blocks works on at a time: all elements of a few
// channels. It is cut into chunks of at most kTileBytes per input, dealt to the blocks of the group in turn, so that
// blocks which run together read neighbouring memory. Inside a chunk the 16-byte vectors are numbered; threads take
// them in turn. A source says where they lie, in memory and in shared memory (always 16 bytes times the number).

#include <cstdint>

#include "iabn/kernels/cuda/pipeline.cuh"
#include "iabn/kernels/kernels.h"

namespace iabn::kernels::cuda {

/// Bytes of one input's part of a chunk: a stage of the ring is 16 KB, or 12 KB where there are three inputs.
constexpr int tile_bytes(int inputs) { return inputs == 1 ? 16384 : inputs == 2 ? 8192 : 4096; }

/// Channels last: a slab is kRowBytes of each of the rows, a chunk some consecutive rows of it, fetched as one box.
template <class T, int kRowBytes, int kInputs>
struct RowSource {
  static constexpr int kWidth = 16 / static_cast<int>(sizeof(T));
  static constexpr int kSlots = kWidth;
  static constexpr int kColumns = kRowBytes / 16;
  static constexpr int kChannels = kRowBytes / static_cast<int>(sizeof(T));
  static constexpr int kMaxRows = tile_bytes(kInputs) / kRowBytes;  // a box has at most 256
  static constexpr int kTileBytes = kMaxRows * kRowBytes;

  CUtensorMap maps[kInputs];
  int64_t channels;  // C, a multiple of kWidth
  int rows;          // N*S
  int chunk_rows;    // at most kMaxRows

  IABN_HOST_DEVICE int slabs() const { return static_cast<int>((channels + kChannels - 1) / kChannels); }
  IABN_HOST_DEVICE int chunks() const { return (rows + chunk_rows - 1) / chunk_rows; }
  /// Elements per channel in a chunk.
  __device__ __forceinline__ int count(int chunk) const { return min(chunk_rows, rows - chunk * chunk_rows); }
  __device__ __forceinline__ int vectors(int chunk) const { return count(chunk) * kColumns; }
  /// First channel of a thread's vectors, from the start of the slab: the same in every chunk.
  static __device__ __forceinline__ int column(int thread) { return thread % kColumns; }
  /// Element offset of a chunk's first vector, and of another one from there.
  __device__ __forceinline__ int64_t origin(int slab, int chunk) const {
    return int64_t{chunk} * chunk_rows * channels + slab * kChannels;
  }
  __device__ __forceinline__ int64_t place(int vector) const {
    return vector / kColumns * channels + vector % kColumns * kWidth;
  }

  /// The first `count` inputs of a chunk.
  __device__ __forceinline__ void load(unsigned char* stage, int slab, int chunk, int count, SharedBarrier& done,
                                       uint64_t policy) const {
    done.arrive_and_expect(chunk_rows * kRowBytes * count);
#pragma unroll
    for (int i = 0; i < kInputs; ++i) {
      if (i < count) copy_box(stage + i * kTileBytes, maps[i], slab * kChannels, chunk * chunk_rows, done, policy);
    }
  }

  /// The same, to the L2 only.
  __device__ __forceinline__ void prefetch(int slab, int chunk, int count) const {
#pragma unroll
    for (int i = 0; i < kInputs; ++i) {
      if (i < count) prefetch_box(maps[i], slab * kChannels, chunk * chunk_rows);
    }
  }
};

/// Contiguous: a slab is one channel, N runs of S elements. A chunk is some whole runs, or a piece of a long one.
template <class T, int kInputs>
struct RunSource {
  static constexpr int kWidth = 16 / static_cast<int>(sizeof(T));
  static constexpr int kSlots = 1;
  static constexpr int kColumns = 1;
  static constexpr int kChannels = 1;
  static constexpr int kTileBytes = tile_bytes(kInputs);
  static constexpr int kTileVectors = kTileBytes / 16;

  const T* inputs[kInputs];
  int64_t channels;
  int runs;          // N
  int run_vectors;   // vectors of a run
  int pieces;        // chunks per run, where a run is longer than a tile; else 1
  int piece;         // vectors of a piece; run_vectors where pieces is 1
  int chunk_runs;    // runs per chunk; 1 where pieces > 1
  uint32_t inverse;  // of `piece`: v / piece = v * inverse >> 21, for v below 2^10 (Granlund and Montgomery 1994)

  IABN_HOST_DEVICE int slabs() const { return static_cast<int>(channels); }
  IABN_HOST_DEVICE int chunks() const { return (runs + chunk_runs - 1) / chunk_runs * pieces; }
  __device__ __forceinline__ int vectors(int chunk) const {
    return pieces == 1 ? min(chunk_runs, runs - chunk * chunk_runs) * run_vectors : piece;
  }
  __device__ __forceinline__ int count(int chunk) const { return vectors(chunk) * kWidth; }
  static __device__ __forceinline__ int column(int) { return 0; }
  /// As above.
  __device__ __forceinline__ int64_t origin(int slab, int chunk) const {
    const int run = pieces == 1 ? chunk * chunk_runs : chunk / pieces;
    const int part = pieces == 1 ? 0 : chunk - run * pieces;
    return ((run * channels + slab) * run_vectors + part * piece) * kWidth;
  }
  __device__ __forceinline__ int64_t place(int vector) const {
    const int run = static_cast<int>(static_cast<uint32_t>(vector) * inverse >> 21);
    return (run * (channels - 1) * run_vectors + vector) * kWidth;
  }

  __device__ __forceinline__ void load(unsigned char* stage, int slab, int chunk, int count, SharedBarrier& done,
                                       uint64_t policy) const {
    const int all = vectors(chunk);
    done.arrive_and_expect(all * 16 * count);
    int64_t at = origin(slab, chunk);
    const int64_t next = channels * run_vectors * kWidth;
    for (int v = 0; v < all; v += piece) {
      const int bytes = min(piece, all - v) * 16;
#pragma unroll
      for (int i = 0; i < kInputs; ++i) {
        if (i < count) copy_bytes(stage + i * kTileBytes + v * 16, inputs[i] + at, bytes, done, policy);
      }
      at += next;
    }
  }

  __device__ __forceinline__ void prefetch(int slab, int chunk, int count) const {
    const int all = vectors(chunk);
    int64_t at = origin(slab, chunk);
    for (int v = 0; v < all; v += piece) {
#pragma unroll
      for (int i = 0; i < kInputs; ++i) {
        if (i < count) prefetch_bytes(inputs[i] + at, min(piece, all - v) * 16);
      }
      at += channels * run_vectors * kWidth;
    }
  }
};

}  // namespace iabn::kernels::cuda
