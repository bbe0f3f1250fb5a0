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
//   combiner    3 warps; merge the partial results of all blocks for some channels, publish (exchange.cuh)
//   reduction   4 warps; add up every chunk, then post the block's partial result
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
        combine(thread / 32 - 1);
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
    constexpr int kNumbers = Budget::kNumbers;
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
          float* to = scratch_ + warp * kNumbers * kChannels + column * kSlots + s;
          sums.slot(s).for_each_number([&](float& number) {
            *to = number;
            to += kChannels;
          });
        }
      }
      group_barrier<Budget::kReductionThreads>(1);
      if (thread < kChannels) {
        typename Op::template Accumulator<1> all;
#pragma unroll
        for (int w = 0; w < kWarps; ++w) {
          typename Op::template Accumulator<1> one;
          const float* from = scratch_ + w * kNumbers * kChannels + thread;
          one.for_each_number([&](float& number) {
            number = *from;
            from += kChannels;
          });
          one.set_count(static_cast<float>(count_of_warp(w)));
          all.merge(one);
        }
        Op::post_partial(job_.exchange.partial(int64_t{slab} * kChannels + thread, rank_, Op::kPartialWords), all);
      }
      group_barrier<Budget::kReductionThreads>(1);
      if (thread == 0) posted_->add();
      for (int k = 0; k < share_.streamed; ++k) skip(at);
    }
  }

  // ---- combination

  __device__ __forceinline__ void combine(int warp) {
    const int blocks = job_.exchange.blocks;
    const int chunks = job_.source.chunks();
    const int tail = job_.source.count(chunks - 1);
    const int whole = job_.source.count(0);

    const auto count = [&](int block) {
      if (block >= chunks) return 0.f;
      const int share = (chunks - block + blocks - 1) / blocks;
      const bool last = (chunks - 1) % blocks == block;
      return static_cast<float>(share - last) * static_cast<float>(whole) + (last ? static_cast<float>(tail) : 0.f);
    };
    const float total = static_cast<float>(chunks - 1) * static_cast<float>(whole) + static_cast<float>(tail);
    Merger<Op> merger(job_.exchange, count);
    [[maybe_unused]] int half = 0;  // of the peers' areas
    if constexpr (Op::kPeers) {
      if (threadIdx.x % 32 == 0) half = take_turn(job_.peers, gridDim.x * Budget::kCombinerWarps).half;
      half = __shfl_sync(0xffffffffu, half, 0);
    }
    const int warps = Budget::kCombinerWarps * blocks;
    int place =
        warp * blocks + rank_;  // among the group's warps; moves on, so that few channels don't meet the same one
    int slabs = 0;
    for (int slab = group_; slab < slabs_; slab += job_.groups) {
      bool first = true;
      for (int base = place * merger.channels(); base < kChannels; base += warps * merger.channels()) {
        const int local = base + merger.which();
        const int64_t channel = int64_t{slab} * kChannels + local;
        const bool wanted = local < kChannels;
        const bool exists = wanted && channel < job_.source.channels;
        typename Op::Parameters parameters{};
        if (exists) parameters = job_.op.parameters(channel);
        if (wanted) merger.touch_partials(channel);
        if (first) posted_->wait(slabs + 1);  // others will be about as far: no polling before
        first = false;
        const auto all = merger.take(channel, wanted, total);
        const auto summary = [&] {
          if constexpr (Op::kPeers) {
            return job_.op.summary(all, total, PeerGroup{job_.peers, half, channel, exists, merger.lanes()});
          } else {
            return job_.op.summary(all, total);
          }
        }();
        if (wanted) merger.post_coefficients(channel, job_.op.coefficients(summary, parameters));
        if (exists && merger.leads()) job_.op.publish(summary, parameters, channel);
      }
      ++slabs;
      if (++place == warps) place = 0;
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
    RingPosition at;
    for (int slab = group_; slab < slabs_; slab += job_.groups) {
      const bool active = slab * kChannels + column * kSlots < job_.source.channels;
      V kept[kKept][kVectors][kInputs];
      if (thread < kChannels) touch(job_.exchange.coefficients(int64_t{slab} * kChannels + thread, rank_));
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

      if (thread < kChannels) {
        const float4 numbers = job_.exchange.take_coefficients(int64_t{slab} * kChannels + thread, rank_);
        coefficients_[thread] = numbers.x;
        coefficients_[kChannels + thread] = numbers.y;
        coefficients_[2 * kChannels + thread] = numbers.z;
        if constexpr (Op::kCoefficients == 4) coefficients_[3 * kChannels + thread] = numbers.w;
      }
      group_barrier<Budget::kApplicationThreads>(2);
      Coefficients<kSlots> coefficients;
#pragma unroll
      for (int q = 0; q < Op::kCoefficients; ++q) {
#pragma unroll
        for (int s = 0; s < kSlots; ++s) {
          coefficients.value[q][s] = coefficients_[q * kChannels + column * kSlots + s];
        }
      }
      group_barrier<Budget::kApplicationThreads>(2);

      const auto from_ring = [&](int k) {
        const int number = chunk(k);
        const int vectors = active ? job_.source.vectors(number) : 0;
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
            apply_to(coefficients, in, job_.source.offset(slab, number, vector));
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
#pragma unroll
        for (int u = 0; u < kVectors; ++u) {
          const int vector = thread + u * kStep;
          if (vector < vectors) {
            apply_to(coefficients, kept[k][u], job_.source.offset(slab, number, vector));
          }
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
