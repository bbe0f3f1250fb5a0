#pragma once

// One launch per direction for contiguous tensors with short runs (7x7, 14x14) that are no whole number of 16-byte
// vectors: every tensor moves once, in wide accesses. Bytes, in tensors: forward reads 1 and writes 1, backward reads 2
// and writes 1 (residual form: 2 + 1, 3 + 2).
//
// A slab is all elements of some adjacent channels; together their runs in a sample, a row of the slab, are a whole
// number of vectors. A block cluster takes one slab after the other, a block some of its rows: one thread fetches them
// into a ring of stages, ahead; the others add them up as they arrive, send one partial result per channel to every
// block of the cluster, and apply what they merge to the rows, which are still in the ring. No block waits for one that
// may not run: clusters start as a whole. So there is neither a cooperative launch nor memory for an exchange.
//
// A thread keeps to its column of vectors, so that its elements' channels are known once: one channel, or two
// neighbours. Partial results are merged in the order of columns, rows and blocks: same input, same bits.

#include "iabn/kernels/cuda/cluster_budget.cuh"
#include "iabn/kernels/cuda/cluster_merge.cuh"
#include "iabn/kernels/cuda/operations.cuh"
#include "iabn/kernels/cuda/pipeline.cuh"
#include "iabn/kernels/kernels.h"

namespace iabn::kernels::cuda {

template <class Op>
class ClusterKernel {
 public:
  using T = typename Op::Storage;
  using Job = ClusterJob<Op>;
  static constexpr int kInputs = Op::kInputs;
  static constexpr int kWidth = 16 / static_cast<int>(sizeof(T));
  static constexpr int kSlots = kWidth;
  /// Rows of a thread that are under way together, within the registers.
  static constexpr int kUnrolled = kInputs == 1 ? 4 : 2;
  using V = Vector<T, kWidth>;
  using Accumulator = typename Op::template Accumulator<kSlots>;
  using One = typename Op::template Accumulator<1>;
  using Constants = typename Op::template Constants<kSlots>;
  using Parameters = typename Op::Parameters;
  static_assert(sizeof(Parameters) == 16);

  __device__ __forceinline__ ClusterKernel(const Job& job, unsigned char* memory)
      : job_(job),
        ring_(memory),
        thread_(static_cast<int>(threadIdx.x)),
        threads_(static_cast<int>(blockDim.x) - 32),
        cluster_(static_cast<int>(blockIdx.x) / job.blocks),
        clusters_(static_cast<int>(gridDim.x) / job.blocks),
        rank_(static_cast<int>(blockIdx.x) % job.blocks) {
    const ClusterScratch scratch(threads_, job.blocks, job.slab_channels);
    tile_bytes_ = job.stage_rows * job.columns * 16;
    entries_ = reinterpret_cast<float4*>(memory + job.ring_stages * kInputs * tile_bytes_);
    inbox_ = entries_ + scratch.entries;
    coefficients_ = inbox_ + 2 * scratch.inbox;
    parameters_ = reinterpret_cast<Parameters*>(coefficients_ + scratch.numbers);
    full_ = reinterpret_cast<SharedBarrier*>(parameters_ + scratch.numbers);
    empty_ = full_ + ClusterBudget::kMostStages;
    arrived_ = empty_ + ClusterBudget::kMostStages;
    mine_ = max(0, min(job.share, job.rows - rank_ * job.share));
    stages_ = (mine_ + job.stage_rows - 1) / job.stage_rows;
  }

  __device__ __forceinline__ void run() {
    if (thread_ == 0) {
      for (int s = 0; s < job_.ring_stages; ++s) {
        full_[s].init(1);
        empty_[s].init(threads_ / 32);
      }
      for (int i = 0; i < 2; ++i) {
        arrived_[i].init(1);
        expect_partials(cluster_ + i * clusters_, i);
      }
      fence_barrier_init();
    }
    if (blockIdx.x == 0 && thread_ == threads_ - 1) job_.op.count_batch();
    __syncthreads();
    cluster_arrive();  // this block's inbox is ready
    if (thread_ >= threads_) {
      if (thread_ == threads_) load();
      __syncwarp();
      return cluster_wait();
    }
    take_place();
    for (int slab = cluster_, turn = 0; slab < job_.slabs; slab += clusters_, ++turn) work_on(slab, turn);
  }

 private:
  /// A block alone in its cluster sends nothing: the architecture would allow it, compute-sanitizer takes it for an
  /// error.
  __device__ __forceinline__ bool alone() const { return job_.blocks == 1; }
  /// One thread: of that slab, if there is one. They may come at any time from then on, and even before: the barrier's
  /// phase ends with this arrival at the earliest.
  __device__ __forceinline__ void expect_partials(int slab, int box) const {
    if (!alone() && slab < job_.slabs) arrived_[box].arrive_and_expect(job_.blocks * job_.slab_channels * 16);
  }
  __device__ __forceinline__ int64_t channel(int slab, int local) const {
    return int64_t{slab} * job_.slab_channels + local;
  }
  /// Channel of a slot of this thread's vectors, from the start of the slab.
  __device__ __forceinline__ int local_channel(int slot) const { return low_ + (slot >= split_); }

  /// Which vectors are this thread's: a column, and every phases_-th row.
  __device__ __forceinline__ void take_place() {
    phases_ = threads_ / job_.columns;
    phase_ = thread_ / job_.columns;
    column_ = thread_ - phase_ * job_.columns;
    low_ = column_ * kWidth / job_.run;
    split_ = min(kSlots, (low_ + 1) * job_.run - column_ * kWidth);
    if (phase_ >= phases_) phase_ = job_.share;  // no rows
  }

  __device__ __forceinline__ void take(V (&in)[kInputs], const unsigned char* stage, int row) const {
    const unsigned char* at = stage + (row * job_.columns + column_) * 16;
#pragma unroll
    for (int i = 0; i < kInputs; ++i) in[i] = {*reinterpret_cast<const typename V::W*>(at + i * tile_bytes_)};
  }

  /// Where a role stands in the ring.
  struct Position {
    int stage = 0;
    int parity = 0;
  };
  __device__ __forceinline__ void advance(Position& at) const {
    if (++at.stage == job_.ring_stages) {
      at.stage = 0;
      at.parity ^= 1;
    }
  }
  __device__ __forceinline__ unsigned char* stage(const Position& at) const {
    return ring_ + at.stage * kInputs * tile_bytes_;
  }
  __device__ __forceinline__ void wait_for(const Position& at) const { full_[at.stage].wait(at.parity); }
  /// A warp is done with a stage.
  __device__ __forceinline__ void release(const Position& at) const {
    __syncwarp();
    if (thread_ % 32 == 0) empty_[at.stage].arrive();
  }

  /// The loader: one thread, for all slabs.
  __device__ __forceinline__ void load() const {
    const uint64_t policy = l2_policy(Keep::kLittle);
    Position at;
    for (int slab = cluster_; slab < job_.slabs; slab += clusters_) {
      for (int s = 0; s < stages_; ++s) {
        empty_[at.stage].wait(at.parity ^ 1);  // of the phase before the first it returns at once
        full_[at.stage].arrive_and_expect(tile_bytes_ * kInputs);
#pragma unroll
        for (int i = 0; i < kInputs; ++i) {
          copy_box(stage(at) + i * tile_bytes_, job_.maps[i], 0, slab * job_.parts,
                   rank_ * job_.share + s * job_.stage_rows, full_[at.stage], policy);
        }
        advance(at);
      }
    }
  }

  // ---- one slab

  __device__ __forceinline__ void work_on(int slab, int turn) {
    for (int c = thread_; c < job_.slab_channels; c += threads_) {
      parameters_[c] = job_.op.parameters(channel(slab, c));
    }
    hand_over(reduce(slab));
    group_barrier(1, threads_);
    if (turn == 0) cluster_wait();
    send_partials(turn % 2);
    if (alone()) {
      group_barrier(1, threads_);
    } else {
      arrived_[turn % 2].wait_for_cluster(turn / 2 % 2);
    }
    merge_partials(slab, turn % 2);
    group_barrier(1, threads_);
    if (thread_ == 0) expect_partials(slab + 2 * clusters_, turn % 2);
    apply(slab);
  }

  __device__ __forceinline__ Accumulator reduce(int slab) const {
    Constants constants(job_.op, job_.channels, job_.channels);
    if constexpr (requires { constants.beta; }) {
#pragma unroll
      for (int k = 0; k < kSlots; ++k) constants.beta[k] = job_.op.affine.beta(channel(slab, local_channel(k)));
    }
    Accumulator sums;
    if (phase_ < mine_) {
      Position at = at_;
      int begin = 0;
      while (begin + job_.stage_rows <= phase_) {
        begin += job_.stage_rows;
        advance(at);
      }
      wait_for(at);
      V first[kInputs];
      take(first, stage(at), phase_ - begin);
      Op::begin(sums, first);
      typename Op::template Batch<kSlots> batch(sums);
      for (int row = phase_;;) {
        const int end = min(begin + job_.stage_rows, mine_);
#pragma unroll kUnrolled
        for (; row < end; row += phases_) {
          V in[kInputs];
          take(in, stage(at), row - begin);
          job_.op.add(batch, constants, in);
        }
        if (row >= mine_) break;
        begin += job_.stage_rows;
        advance(at);
        wait_for(at);
      }
      batch.merge_into(sums, static_cast<float>((mine_ - phase_ + phases_ - 1) / phases_));
    }
    return sums;
  }

  /// A thread's sums, of one channel or two, to the entries.
  __device__ __forceinline__ void hand_over(const Accumulator& sums) const {
    entries_[thread_] = packed(fold<false>(sums, split_));
    if (split_ < kSlots) entries_[threads_ + thread_] = packed(fold<true>(sums, split_));
  }

  /// The block's sums of every channel, a warp each, to all blocks of the cluster. Two inboxes in turn: a block may be
  /// one slab ahead of another one, never two.
  __device__ __forceinline__ void send_partials(int box) const {
    for (int local = thread_ / 32; local < job_.slab_channels; local += threads_ / 32) {
      const int begin = local * job_.run;
      const int first = begin / kWidth;
      const int columns = (begin + job_.run - 1) / kWidth - first + 1;
      const bool shared = begin % kWidth != 0;  // the first column begins in the channel before
      One all;
      merge_parts(all, columns * phases_, 32, [&](int i) {
        const int phase = i / columns, column = i - phase * columns;
        const int upper = shared && column == 0 ? threads_ : 0;
        return unpacked<One>(entries_[upper + phase * job_.columns + first + column]);
      });
      float4* place = inbox_ + (box * job_.blocks + rank_) * job_.slab_channels + local;
      for (int to = thread_ % 32; to < job_.blocks; to += 32) {
        if (alone()) {
          *place = packed(all);
        } else {
          send(place, arrived_[box], to, packed(all));
        }
      }
    }
  }

  /// The sums of all blocks to coefficients; one block of the cluster publishes a channel's results.
  __device__ __forceinline__ void merge_partials(int slab, int box) const {
    const int blocks = job_.blocks;
    const int lane = thread_ % blocks;
    const int group = thread_ % 32 / blocks;
    const float count = static_cast<float>(job_.rows) * static_cast<float>(job_.run);
    for (int j = thread_ / blocks; j - group < job_.slab_channels; j += threads_ / blocks) {
      const int local = min(j, job_.slab_channels - 1);
      One all;
      merge_parts(all, blocks, blocks,
                  [&](int i) { return unpacked<One>(inbox_[(box * blocks + i) * job_.slab_channels + local]); });
      if (lane != 0 || j >= job_.slab_channels) continue;
      const Parameters parameters = parameters_[local];
      const auto summary = job_.op.summary(all, count);
      coefficients_[local] = job_.op.coefficients(summary, parameters);
      if (local % blocks == rank_) job_.op.publish(summary, parameters, channel(slab, local));
    }
  }

  __device__ __forceinline__ void apply(int slab) {
    Coefficients<kSlots> coefficients;
#pragma unroll
    for (int k = 0; k < kSlots; ++k) {
      const float4 numbers = coefficients_[min(local_channel(k), job_.slab_channels - 1)];
      coefficients.value[0][k] = numbers.x;
      coefficients.value[1][k] = numbers.y;
      coefficients.value[2][k] = numbers.z;
      if constexpr (Op::kCoefficients == 4) coefficients.value[3][k] = numbers.w;
    }
    int64_t to =
        (int64_t{rank_} * job_.share + phase_) * job_.pitch + (int64_t{slab} * job_.columns + column_) * kWidth;
    const int64_t step = phases_ * job_.pitch;
    int row = phase_;
    for (int s = 0, begin = 0; s < stages_; ++s, begin += job_.stage_rows) {
      const int end = min(begin + job_.stage_rows, mine_);
#pragma unroll kUnrolled
      for (; row < end; row += phases_) {
        V in[kInputs], out[Op::kOutputs];
        take(in, stage(at_), row - begin);
        job_.op.apply(coefficients, in, out);
#pragma unroll
        for (int o = 0; o < Op::kOutputs; ++o) out[o].store(job_.outputs[o] + to);
        to += step;
      }
      release(at_);
      advance(at_);
    }
  }

  const Job& job_;
  unsigned char* ring_;  // [ring_stages][kInputs][stage_rows][columns] vectors
  float4* entries_;
  float4* inbox_;         // [2][blocks][slab_channels] partial results of the cluster's blocks
  float4* coefficients_;  // [slab_channels]
  Parameters* parameters_;
  SharedBarrier* full_;     // [ring_stages] the rows have arrived
  SharedBarrier* empty_;    // [ring_stages] they are not needed any more
  SharedBarrier* arrived_;  // [2] the inbox is full
  int thread_, threads_, cluster_, clusters_, rank_;
  int tile_bytes_;               // of an input in a stage
  int mine_, stages_;            // rows of this block in every slab, and their stages
  Position at_;                  // of the slab's first stage
  int phases_, phase_, column_;  // a thread takes every phases_-th row
  int low_, split_;              // channel of its first slot, and where the slots of the next one begin
};

template <class Op>
__global__ void __maxnreg__(ClusterBudget::kRegisters) cluster_kernel(const __grid_constant__ ClusterJob<Op> job) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  extern __shared__ __align__(128) unsigned char memory[];
  ClusterKernel<Op>(job, memory).run();
#else
  __trap();  // never launched: see cluster_plan()
#endif
}

}  // namespace iabn::kernels::cuda
