#pragma once

// One launch per direction for large tensors: data stay on chip between the reduction and the application. For compute
// capability 9.0. Bytes, in tensors: forward reads 1 and writes 1, backward reads 2 and writes 1 (residual form: 2 and
// 1, 3 and 2), plus what does not fit on chip read once more, as a rule from the L2.
//
// One block per multiprocessor, all resident (cooperative launch). The blocks form groups; a group works on one slab
// (slab_source.cuh) after the other. Inside a block warps have roles:
//   loader      one thread; fetches the block's chunks of the slab into a ring of stages, few at a time: more requests
//               than memory needs would only delay those of the reduction that everybody waits for; while it waits, it
//               brings what comes next to the L2
//   combiner    3 warps; wait for the sums of all blocks (exact_sums.cuh), find the coefficients, publish
//   reduction   4 warps; add up every chunk, then post the block's sums
//   application 8 warps; keep kKept chunks in registers, wait for the coefficients, write the output
// The chunks of a slab, in this order: `streamed` ones, which only the reduction uses and which are fetched again at
// the end, last first, while the L2 still holds them; those kept in registers; those that stay in the ring.
// Every consumer role waits for and releases every stage, so that all agree on positions in the ring.

#include "iabn/kernels/cuda/slab_budget.cuh"
#include "iabn/kernels/cuda/slab_loader.cuh"

namespace iabn::kernels::cuda {

template <class Op, class Source>
class SlabKernel {
 public:
  using T = typename Op::Storage;
  using Budget = SlabBudget<Op, Source>;
  using Job = SlabJob<Op, Source>;
  using V = Vector<T, Source::kWidth>;
  using Accumulator = typename Budget::Accumulator;
  static constexpr int kStages = Budget::kStages;
  static constexpr int kInputs = Op::kInputs;
  static constexpr int kSlots = Source::kSlots;
  static constexpr int kChannels = Source::kChannels;
  static constexpr int kColumns = Source::kColumns;

  __device__ __forceinline__ SlabKernel(const Job& job, unsigned char* memory) : job_(job) {
    ring_ = memory;
    full_ = reinterpret_cast<SharedBarrier*>(ring_ + kStages * Budget::kStageBytes);
    empty_ = full_ + kStages;
    posted_ = reinterpret_cast<SharedCounter*>(empty_ + kStages);
    scratch_ = reinterpret_cast<float*>(posted_) + 4;
    coefficients_ = scratch_ + Budget::kScratch;
    const int blocks = job.exchange.blocks;
    group_ = static_cast<int>(blockIdx.x) / blocks;
    rank_ = static_cast<int>(blockIdx.x) - group_ * blocks;
    slabs_ = job.source.slabs();
    share_.chunks = (job.source.chunks() - rank_ + blocks - 1) / blocks;
    share_.kept = min(Budget::kKept, share_.chunks);
    share_.in_ring = min(share_.chunks - share_.kept, job.ring_chunks);
    share_.streamed = share_.chunks - share_.kept - share_.in_ring;
  }

  __device__ __forceinline__ void run() {
    const int thread = static_cast<int>(threadIdx.x);
    SlabLoader<Op, Source> loader({job_, ring_, full_, empty_, share_, group_, rank_, slabs_});
    if (thread == 0) {
      for (int i = 0; i < kStages; ++i) {
        full_[i].init(1);
        empty_[i].init((Budget::kReductionThreads + Budget::kApplicationThreads) / 32);
      }
      posted_->init();
      fence_barrier_init();
      for (int i = 0; i < job_.in_flight; ++i) loader.next();
    }
    if (blockIdx.x == 0 && thread == Budget::kThreads - 1) job_.op.count_batch();
    __syncthreads();

    if (thread < Budget::kWarpgroup) {
      release_registers<Budget::kLoaderRegisters>();
      if (thread == 0) {
        while (loader.next()) {
        }
      } else if (thread >= 32) {
        combine(thread - 32);
      }
    } else if (thread < Budget::kWarpgroup + Budget::kReductionThreads) {
      release_registers<Budget::kReductionRegisters>();
      reduce(thread - Budget::kWarpgroup);
    } else {
      claim_registers<Budget::kApplicationRegisters>();
      apply(thread - Budget::kWarpgroup - Budget::kReductionThreads);
    }
  }

 private:
  /// Chunk number of the block's k-th.
  __device__ __forceinline__ int chunk(int k) const { return k * job_.exchange.blocks + rank_; }
  __device__ __forceinline__ unsigned char* stage(int i) const { return ring_ + i * Budget::kStageBytes; }

  /// A consumer's warp is done with a stage.
  __device__ __forceinline__ void release(RingPosition& at) const {
    __syncwarp();
    if (threadIdx.x % 32 == 0) empty_[at.stage].arrive();
    at.template advance<kStages>();
  }
  __device__ __forceinline__ void skip(RingPosition& at) const {
    full_[at.stage].wait(at.parity);
    release(at);
  }
  static __device__ __forceinline__ V vector_at(const unsigned char* tile, int vector) {
    return {*reinterpret_cast<const typename V::W*>(tile + vector * 16)};
  }

  // ---- reduction

  using Constants = typename Op::template Constants<kSlots>;
  using Batch = typename Op::template Batch<kSlots>;

  /// Adds vectors of a tile kBatch at a time, then the rest in halving batches.
  template <int kBatch>
  __device__ __forceinline__ void add_vectors(Batch& batch, const Constants& constants, const unsigned char* tile,
                                              int& vector, int vectors) const {
    constexpr int kStep = Budget::kReductionThreads;
    while (vector + (kBatch - 1) * kStep < vectors) {
      V in[kBatch][kInputs];
#pragma unroll
      for (int u = 0; u < kBatch; ++u) {
#pragma unroll
        for (int i = 0; i < kInputs; ++i) in[u][i] = vector_at(tile + i * Source::kTileBytes, vector + u * kStep);
      }
#pragma unroll
      for (int u = 0; u < kBatch; ++u) job_.op.add(batch, constants, in[u]);
      vector += kBatch * kStep;
    }
    if constexpr (kBatch > 1) add_vectors<kBatch / 2>(batch, constants, tile, vector, vectors);
  }

  /// Elements per channel of a slab that a warp of the reduction adds up.
  __device__ __forceinline__ int64_t count_of_warp(int warp) const {
    const auto share = [&](int vectors) {
      const int rest = vectors % Budget::kReductionThreads - warp * 32;
      return (vectors / Budget::kReductionThreads * 32 + min(max(rest, 0), 32)) / kColumns * (Source::kWidth / kSlots);
    };
    if (share_.chunks == 0) return 0;
    return int64_t{share_.chunks - 1} * share(job_.source.vectors(chunk(0))) +
           share(job_.source.vectors(chunk(share_.chunks - 1)));
  }

  __device__ __forceinline__ void reduce(int thread) {
    constexpr int kBatch = kInputs == 1 ? 4 : 2;
    constexpr int kWarps = Budget::kReductionThreads / 32;
    const int lane = thread % 32, warp = thread / 32;
    const int column = Source::column(thread);
    RingPosition at;
    for (int slab = group_; slab < slabs_; slab += job_.groups) {
      const Constants constants(job_.op, slab * kChannels + column * kSlots, job_.source.channels);
      Accumulator sums;
      for (int k = 0; k < share_.chunks; ++k) {
        const int vectors = job_.source.vectors(chunk(k));
        full_[at.stage].wait(at.parity);
        if (thread < vectors) {
          const unsigned char* tile = stage(at.stage);
          if (k == 0) {
            V first[kInputs];
#pragma unroll
            for (int i = 0; i < kInputs; ++i) first[i] = vector_at(tile + i * Source::kTileBytes, thread);
            Op::begin(sums, first);
          }
          Batch batch(sums);
          int vector = thread;
          add_vectors<kBatch>(batch, constants, tile, vector, vectors);
          const int mine = (vectors - thread + Budget::kReductionThreads - 1) / Budget::kReductionThreads;
          batch.merge_into(sums, static_cast<float>(mine * (Source::kWidth / kSlots)));
        }
        release(at);
      }
      // The lanes of a column, then, with a thread per channel, the warps.
#pragma unroll
      for (int distance = 16; distance >= kColumns; distance /= 2) {
        Accumulator other = sums;
        other.for_each([&](float& number) { number = __shfl_down_sync(0xffffffffu, number, distance); });
        sums.merge(other);
      }
      if (lane < kColumns) {
#pragma unroll
        for (int s = 0; s < kSlots; ++s) {
          float* to = scratch_ + warp * Budget::kNumbers * kChannels + column * kSlots + s;
          sums.slot(s).for_each_number([&](float& number) {
            *to = number;
            to += kChannels;
          });
        }
      }
      group_barrier<Budget::kReductionThreads>(1);
      const int channel = thread % kChannels;
      const auto number = [&](int w, int i) { return scratch_[(w * Budget::kNumbers + i) * kChannels + channel]; };
      const auto count = [&](int w) { return static_cast<double>(count_of_warp(w)); };
      for (int which = thread / kChannels; which < Op::kPosters; which += Budget::kReductionThreads / kChannels) {
        Op::template post<kWarps>(sums_of(slab, channel), which, number, count);
      }
      group_barrier<Budget::kReductionThreads>(1);
      if (thread == 0) posted_->add();
      for (int k = 0; k < share_.streamed; ++k) skip(at);
    }
  }

  // ---- combination

  /// Named barriers between the combiner and the application: coefficients are there; their place is free again.
  static constexpr int kReady = 2, kFree = 3;

  /// Of a slab's channel.
  __device__ __forceinline__ typename Budget::Sums sums_of(int slab, int channel) const {
    return {job_.exchange.words + int64_t{slab} * kChannels * Exchange::kSumWords + channel};
  }

  __device__ __forceinline__ void combine(int thread) {
    const int blocks = job_.exchange.blocks, last = job_.source.chunks() - 1;
    // More elements than float32 can count would be missing from M2.
    const double total = static_cast<double>(int64_t{last} * job_.source.count(0) + job_.source.count(last));
    job_.exchange.clear(int64_t{blockIdx.x} * Budget::kCombinerThreads + thread,
                        int64_t{gridDim.x} * Budget::kCombinerThreads);
    [[maybe_unused]] int half = 0;  // of the peers' areas
    if constexpr (Op::kPeers) {
      if (thread % 32 == 0) half = take_turn(job_.peers, gridDim.x * (Budget::kCombinerThreads / 32)).half;
      half = __shfl_sync(0xffffffffu, half, 0);
    }
    bool unusual = false;  // see ExactSums::take
    int slabs = 0;
    for (int slab = group_; slab < slabs_; slab += job_.groups) {
      // The first of the group's blocks where one works for all: another one in every slab, since slabs may have few
      // channels.
      const int first_block = slabs % blocks;
      const int64_t channel = int64_t{slab} * kChannels + thread;
      const bool mine = thread < kChannels, exists = mine && channel < job_.source.channels;
      if (rank_ == first_block) sums_of(slab, 0).touch_all(thread, Budget::kCombinerThreads);
      if constexpr (Op::kPeers) {
        posted_->wait(slabs + 1);  // others will be about as far: no polling before
        trade(slab, (rank_ - first_block + blocks) % blocks, half, total, unusual);
        const float4 numbers = mine ? take_coefficients(job_.exchange.coefficients(channel)) : float4{};
        hand_over(thread, numbers, slabs > 0);
      } else {
        typename Op::Parameters parameters{};
        if (exists) parameters = job_.op.parameters(channel);
        posted_->wait(slabs + 1);
        typename Op::template Accumulator<1> all;
        if (mine) all = Op::take(sums_of(slab, thread), blocks, total, unusual);
        const auto summary = job_.op.summary(all, static_cast<float>(total));
        hand_over(thread, job_.op.coefficients(summary, parameters), slabs > 0);
        if (exists && rank_ == first_block) job_.op.publish(summary, parameters, channel);
      }
      ++slabs;
    }
  }

  /// Coefficients of the slab's channel number `thread` to the application. again: not the first slab.
  __device__ __forceinline__ void hand_over(int thread, float4 numbers, bool again) const {
    __syncwarp();
    if (again) group_barrier<Budget::kHandoverThreads>(kFree);
    if (thread < kChannels) {
      coefficients_[thread] = numbers.x;
      coefficients_[kChannels + thread] = numbers.y;
      coefficients_[2 * kChannels + thread] = numbers.z;
      if constexpr (Op::kCoefficients == 4) coefficients_[3 * kChannels + thread] = numbers.w;
    }
    __syncwarp();
    group_arrive<Budget::kHandoverThreads>(kReady);
  }

  /// Some of a slab's channels: trades their sums with the other processes, posts the coefficients to the group,
  /// publishes. Eight lanes share a channel. order: this block's, among the group's.
  __device__ __forceinline__ void trade(int slab, int order, int half, double total, bool& unusual) const {
    constexpr int kLanes = Peers::kMost, kAtATime = 32 / kLanes;
    const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32 - 1;
    const int warps = Budget::kCombinerThreads / 32 * job_.exchange.blocks;
    for (int base = (warp * job_.exchange.blocks + order) * kAtATime; base < kChannels; base += warps * kAtATime) {
      const int local = base + lane / kLanes;
      const int64_t channel = int64_t{slab} * kChannels + local;
      const bool wanted = local < kChannels, exists = wanted && channel < job_.source.channels;
      typename Op::Parameters parameters{};
      if (exists) parameters = job_.op.parameters(channel);
      typename Op::template Accumulator<1> own;
      if (wanted) own = Op::take(sums_of(slab, local), job_.exchange.blocks, total, unusual);
      __syncwarp();
      const auto summary =
          job_.op.summary(own, static_cast<float>(total), PeerGroup{job_.peers, half, channel, exists, kLanes});
      if (wanted && lane % kLanes == 0) {
        post_coefficients(job_.exchange.coefficients(channel), job_.op.coefficients(summary, parameters));
        if (exists) job_.op.publish(summary, parameters, channel);
      }
      __syncwarp();
    }
  }

  // ---- application

  __device__ __forceinline__ void apply_to(const Coefficients<kSlots>& coefficients, const V (&in)[kInputs],
                                           int64_t offset) const {
    V out[Op::kOutputs];
    job_.op.apply(coefficients, in, out);
#pragma unroll
    for (int o = 0; o < Op::kOutputs; ++o) out[o].store(job_.outputs[o] + offset);
  }

  __device__ __forceinline__ void apply(int thread) {
    constexpr int kVectors = Budget::kApplicationVectors;
    constexpr int kStep = Budget::kApplicationThreads;
    constexpr int kKept = Budget::kKept;
    const int column = Source::column(thread);
    int64_t place[kVectors];  // of this thread's vectors in every chunk; found for each vector, they are half the work
#pragma unroll
    for (int u = 0; u < kVectors; ++u) place[u] = job_.source.place(thread + u * kStep);
    RingPosition at;
    for (int slab = group_; slab < slabs_; slab += job_.groups) {
      const bool active = slab * kChannels + column * kSlots < job_.source.channels;
      V kept[kKept][kVectors][kInputs];
      for (int k = 0; k < share_.streamed; ++k) skip(at);
#pragma unroll
      for (int k = 0; k < kKept; ++k) {
        if (k >= share_.kept) break;
        full_[at.stage].wait(at.parity);
#pragma unroll
        for (int u = 0; u < kVectors; ++u) {
#pragma unroll
          for (int i = 0; i < kInputs; ++i) {
            kept[k][u][i] = vector_at(stage(at.stage) + i * Source::kTileBytes, thread + u * kStep);
          }
        }
        release(at);
      }

      group_barrier<Budget::kHandoverThreads>(kReady);
      Coefficients<kSlots> coefficients;
#pragma unroll
      for (int q = 0; q < Op::kCoefficients; ++q) {
#pragma unroll
        for (int s = 0; s < kSlots; ++s) {
          coefficients.value[q][s] = coefficients_[q * kChannels + column * kSlots + s];
        }
      }
      if (slab + job_.groups < slabs_) group_arrive<Budget::kHandoverThreads>(kFree);

      const auto from_ring = [&](int k) {
        const int number = chunk(k);
        const int vectors = active ? job_.source.vectors(number) : 0;
        const int64_t origin = job_.source.origin(slab, number);
        full_[at.stage].wait(at.parity);
#pragma unroll
        for (int u = 0; u < kVectors; ++u) {
          const int vector = thread + u * kStep;
          if (vector < vectors) {
            V in[kInputs];
#pragma unroll
            for (int i = 0; i < kInputs; ++i) {
              in[i] = vector_at(stage(at.stage) + i * Source::kTileBytes, vector);
            }
            apply_to(coefficients, in, origin + place[u]);
          }
        }
        release(at);
      };
      for (int k = 0; k < share_.in_ring; ++k) from_ring(share_.streamed + share_.kept + k);
#pragma unroll
      for (int k = 0; k < kKept; ++k) {
        if (k >= share_.kept) break;
        const int number = chunk(share_.streamed + k);
        const int vectors = active ? job_.source.vectors(number) : 0;
        const int64_t origin = job_.source.origin(slab, number);
#pragma unroll
        for (int u = 0; u < kVectors; ++u) {
          if (thread + u * kStep < vectors) apply_to(coefficients, kept[k][u], origin + place[u]);
        }
      }
      for (int k = share_.streamed - 1; k >= 0; --k) from_ring(k);
    }
  }

  const Job& job_;
  unsigned char* ring_;
  SharedBarrier* full_;    // [kStages] the stage has arrived
  SharedBarrier* empty_;   // [kStages] everybody is done with it
  SharedCounter* posted_;  // slabs whose partial result this block has posted
  float* scratch_;
  float* coefficients_;  // [kCoefficients][kChannels]
  int group_, rank_, slabs_;
  SlabShare share_;
};

template <class Op, class Source>
__global__ void __launch_bounds__(SlabBudget<Op, Source>::kThreads, 1)
    slab_kernel(const __grid_constant__ SlabJob<Op, Source> job) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  extern __shared__ __align__(128) unsigned char memory[];
  SlabKernel<Op, Source>(job, memory).run();
#else
  __trap();  // never launched: see slab_plan()
#endif
}

}  // namespace iabn::kernels::cuda
