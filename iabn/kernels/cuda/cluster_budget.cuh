#pragma once

// What the cluster kernel (cluster.cuh) is given, and how it divides a block's shared memory.

#include <cuda.h>

#include <cstdint>

#include "iabn/kernels/kernels.h"

namespace iabn::kernels::cuda {

/// What a launch needs besides the template argument; the geometry is ClusterCut's (cluster.h).
template <class Op>
struct ClusterJob {
  CUtensorMap maps[Op::kInputs];  // of [a part of a row, parts of all slabs, rows], in 8-byte elements
  Op op;
  typename Op::Storage* outputs[Op::kOutputs];
  int64_t pitch;     // elements from row to row: C*S
  int64_t channels;  // C
  int run;           // elements of a channel in a row: S
  int slabs;
  int slab_channels;
  int columns;
  int parts;
  int rows;
  int share;
  int stage_rows;
  int ring_stages;
  int blocks;
};

struct ClusterBudget {
  static constexpr int kSharedBytes = 227 * 1024;  // of a multiprocessor, and of a block that has it alone
  static constexpr int kMaxThreads = 512;
  static constexpr int kRegisters = 96;   // 17 warps of 512 threads and a loader: five on one of four schedulers
  static constexpr int kMostStages = 32;  // of the ring
};

/// A block's shared memory behind the rows, in units of 16 bytes; `threads` without the loader's.
struct ClusterScratch {
  int entries, inbox, numbers;

  IABN_HOST_DEVICE ClusterScratch(int threads, int blocks, int channels)
      : entries(2 * threads), inbox(blocks * channels), numbers(channels) {}
  IABN_HOST_DEVICE int bytes() const {
    return (entries + 2 * inbox + 2 * numbers) * 16 + (2 * ClusterBudget::kMostStages + 2) * 8;
  }
};

}  // namespace iabn::kernels::cuda
