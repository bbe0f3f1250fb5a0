#pragma once

// What the slab kernel (slab.cuh) is given, and how it divides a multiprocessor's threads, registers and shared memory.

#include "iabn/kernels/cuda/exact_sums.cuh"
#include "iabn/kernels/cuda/operations.cuh"
#include "iabn/kernels/cuda/slab_source.cuh"

namespace iabn::kernels::cuda {

/// What a launch needs besides the template arguments.
template <class Op, class Source>
struct SlabJob {
  Source source;
  Op op;
  typename Op::Storage* outputs[Op::kOutputs];
  Exchange exchange;
  Peers peers;
  int groups;       // of exchange.blocks blocks each
  int ring_chunks;  // chunks of a slab that may stay in the ring, at most kStages
  int in_flight;    // chunks that the loader requests ahead of their arrival; below kStages
  int prefetch;     // chunks that it brings to the L2 while the ring is full, at most
};

/// Thread and memory budget of the kernel.
template <class Op, class Source>
struct SlabBudget {
  static constexpr int kThreads = 512;
  static constexpr int kWarpgroup = 128;
  static constexpr int kReductionThreads = 128;
  static constexpr int kApplicationThreads = 256;
  static constexpr int kCombinerThreads = 96;
  /// Of the barriers between those that find a slab's coefficients and those that apply them.
  static constexpr int kHandoverThreads = kCombinerThreads + kApplicationThreads;
  /// Cycles between two prefetches of a multiprocessor: chunks of 16 KB then make about the bandwidth of memory.
  static constexpr uint32_t kPrefetchCycles = 1600;
  // Registers per thread: together 65536, the whole file. With 56 for the combiner it spills 30 of them on the way from
  // the sums to the coefficients, which costs 1 to 2 %.
  static constexpr int kLoaderRegisters = 72;  // and the combiner's
  static constexpr int kReductionRegisters = 88;
  static constexpr int kApplicationRegisters = 176;

  static constexpr int kStageBytes = Source::kTileBytes * Op::kInputs;
  static constexpr int kTileVectors = Source::kTileBytes / 16;
  static constexpr int kApplicationVectors = kTileVectors / kApplicationThreads;
  /// Chunks in the application's registers: 108 to 128 of them.
  static constexpr int kKept = (Op::kInputs == 1 ? 128 : 112) / (kApplicationVectors * Op::kInputs * 4);

  using Accumulator = typename Op::template Accumulator<Source::kSlots>;
  using Sums = ExactSums<Op, Source::kChannels>;
  static constexpr int kNumbers = Op::template Accumulator<1>::kPosted;  // of a warp and a channel
  static constexpr int kScratch = kReductionThreads / 32 * kNumbers * Source::kChannels;
  static constexpr int kCoefficients = Op::kCoefficients * Source::kChannels;
  static constexpr int kSharedBytes = 227 * 1024;
  static constexpr int kOther = 4 * (kScratch + kCoefficients + 4);
  static constexpr int kStages = (kSharedBytes - kOther) / (kStageBytes + 16);
};

/// Where a role stands in the ring.
struct RingPosition {
  int stage = 0;
  int parity = 0;

  template <int kStages>
  __device__ __forceinline__ void advance() {
    if (++stage == kStages) {
      stage = 0;
      parity ^= 1;
    }
  }
};

/// A block's share of every slab.
struct SlabShare {
  int chunks;    // of this block
  int kept;      // in registers
  int in_ring;   // until they are applied
  int streamed;  // fetched twice
};

}  // namespace iabn::kernels::cuda
