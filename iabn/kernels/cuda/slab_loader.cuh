#pragma once

// The loader's role in the slab kernel (slab.cuh): one thread of a block that requests chunks in order.
//
// Note [Requests in flight]
// A few chunks on their way keep memory busy; more only queue, and the small words that blocks exchange queue behind
// them: with three chunks of 16 KB in flight sums took 4 to 7 us to be merged elsewhere, with one 2 us (finding 07),
// but then memory is not busy. While the ring is full, memory would idle: then the next chunks are brought to the L2,
// one in kPrefetchCycles, since nothing tells when they have arrived. docs/findings/07-what-memory-does-meanwhile.md

#include "iabn/kernels/cuda/slab_budget.cuh"

namespace iabn::kernels::cuda {

template <class Op, class Source>
class SlabLoader {
 public:
  using Budget = SlabBudget<Op, Source>;
  static constexpr int kStages = Budget::kStages;

  /// What the loader sees of its block.
  struct Block {
    const SlabJob<Op, Source>& job;
    unsigned char* ring;
    SharedBarrier* full;
    SharedBarrier* empty;
    SlabShare share;
    int group, rank, slabs;
  };

  __device__ __forceinline__ explicit SlabLoader(const Block& block)
      : b_(block), next_{block.group}, ahead_{block.group} {
    free_.parity = 1;  // a wait for the phase before the first returns at once
  }

  /// Requests the next chunk; false after the last.
  __device__ __forceinline__ bool next() {
    if (next_.slab >= b_.slabs || b_.share.chunks == 0) return false;
    if (in_flight_ == b_.job.in_flight) {
      b_.full[oldest_.stage].wait(oldest_.parity);
      oldest_.template advance<kStages>();
      --in_flight_;
    }
    while (!b_.empty[free_.stage].test(free_.parity)) prefetch();
    // What stays on chip, or is read for the last time, should not displace what is still to be read.
    b_.job.source.load(b_.ring + free_.stage * Budget::kStageBytes, next_.slab, chunk(next_), inputs(next_),
                       b_.full[free_.stage], l2_policy(comes_again(next_) ? Keep::kNormal : Keep::kLittle));
    free_.template advance<kStages>();
    ++in_flight_;
    advance(next_);
    if (distance_ > 0) {
      --distance_;
    } else {
      ahead_ = next_;
    }
    return true;
  }

 private:
  /// A place in the order of the loads: the chunks of a slab, then its streamed ones again, last first, then those of
  /// the group's next slab.
  struct Place {
    int slab;
    int step = 0;
  };
  __device__ __forceinline__ bool comes_again(const Place& at) const { return at.step < b_.share.streamed; }
  __device__ __forceinline__ int chunk(const Place& at) const {
    const SlabShare& share = b_.share;
    const int k = at.step < share.chunks ? at.step : share.chunks + share.streamed - 1 - at.step;
    return k * b_.job.exchange.blocks + b_.rank;
  }
  /// Inputs to be loaded there: the reduction may need fewer.
  __device__ __forceinline__ int inputs(const Place& at) const { return comes_again(at) ? Op::kReduced : Op::kInputs; }
  __device__ __forceinline__ void advance(Place& at) const {
    if (++at.step < b_.share.chunks + b_.share.streamed) return;
    at.step = 0;
    at.slab += b_.job.groups;
  }

  /// Brings the first chunk that is not on its way to the L2. See Note [Requests in flight].
  __device__ __forceinline__ void prefetch() {
    if (distance_ >= b_.job.prefetch || ahead_.slab >= b_.slabs || clock() - last_ < Budget::kPrefetchCycles) return;
    b_.job.source.prefetch(ahead_.slab, chunk(ahead_), inputs(ahead_));
    advance(ahead_);
    ++distance_;
    last_ = clock();
  }
  static __device__ __forceinline__ uint32_t clock() {
    uint32_t now;
    asm volatile("mov.u32 %0, %%clock;" : "=r"(now));
    return now;
  }

  const Block b_;
  RingPosition free_, oldest_;
  Place next_;
  Place ahead_;  // the next one to be prefetched, `distance_` places after next_
  int in_flight_ = 0;
  int distance_ = 0;
  uint32_t last_ = 0;
};

}  // namespace iabn::kernels::cuda
