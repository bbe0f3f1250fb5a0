#pragma once

// Numbers of a channel that the kernels of several processes hand to each other while all of them run.
//
// Note [Words between processes]
// A process posts four floats per channel, as two flagged words (exchange.cuh), to every process's area, over NVLink
// where they have it, and waits in its own for those of all. Each word has one writer and one reader, who clears it.
// The areas have two halves, taken in turns by the launches: when a process posts its words of launch k+2 into a half,
// it has those of launch k+1 from every process, each of which had by then finished launch k, and with it read and
// cleared what the half held (relaxed accesses: the order rests on a kernel's writes being visible everywhere
// when the next one of its stream begins). Which turn it is stands in the area, not in the launch, so that a captured
// launch can be replayed.

#include "iabn/kernels/cuda/exchange.cuh"
#include "iabn/kernels/cuda/peers.h"

namespace iabn::kernels::cuda {

struct PeerTurn {
  int half;
  bool last;  // of the participants to ask
};

/// One thread of each of the launch's `participants` asks once, before it trades.
__device__ __forceinline__ PeerTurn take_turn(const Peers& peers, unsigned int participants) {
  auto* turn = reinterpret_cast<unsigned int*>(peers.areas[peers.rank]);
  unsigned int* arrived = turn + 1;
  unsigned int now, before;
  asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(now) : "l"(turn) : "memory");
  asm volatile("atom.acq_rel.gpu.global.add.u32 %0, [%1], 1;" : "=r"(before) : "l"(arrived) : "memory");
  const bool last = before == participants - 1;
  if (last) {  // everybody has read the turn
    asm volatile("st.relaxed.gpu.global.u32 [%0], %1;" ::"l"(arrived), "r"(0u) : "memory");
    asm volatile("st.relaxed.gpu.global.u32 [%0], %1;" ::"l"(turn), "r"(now + 1) : "memory");
  }
  return {static_cast<int>(now & 1), last};
}

__device__ __forceinline__ uint64_t* peer_slot(const Peers& peers, int area, int half, int64_t channel, int from) {
  return peers.areas[area] + Peers::kHeaderWords +
         ((half * peers.channels + channel) * peers.size + from) * Peers::kWords;
}

__device__ __forceinline__ void store_pair(uint64_t* at, uint64_t first, uint64_t second) {
  asm volatile("st.relaxed.sys.global.v2.u64 [%0], {%1, %2};" ::"l"(at), "l"(first), "l"(second) : "memory");
}

/// Waits until both words have arrived. Ends the kernel with an error where they don't in time.
__device__ __forceinline__ void wait_for_pair(const uint64_t* at, uint64_t timeout_ns, uint64_t& first,
                                              uint64_t& second) {
  constexpr unsigned int kPolls = 4096;  // between two looks at the clock
  uint64_t began = 0;
  for (unsigned int polls = 1;; ++polls) {
    asm volatile("ld.relaxed.sys.global.v2.u64 {%0, %1}, [%2];" : "=l"(first), "=l"(second) : "l"(at) : "memory");
    if (first != kPending && second != kPending) return;
    if (polls % kPolls != 0) continue;
    uint64_t now;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
    if (began == 0) began = now;
    if (now - began > timeout_ns) __trap();
  }
}

/// What all processes said of a channel.
class PeerNumbers {
 public:
  /// Posts `mine`, which all `lanes` neighbouring lanes of a channel have (at least peers.size), and waits for the
  /// others'. All lanes of the warp call it; those without a channel pass one that is not `wanted`.
  __device__ __forceinline__ PeerNumbers(const Peers& peers, int half, int64_t channel, bool wanted, int lanes,
                                         float4 mine)
      : lanes_(lanes) {
    const int lane = static_cast<int>(threadIdx.x) % lanes;
    if (wanted && lane < peers.size) {
      store_pair(peer_slot(peers, lane, half, channel, peers.rank), flagged(mine.x, mine.y), flagged(mine.z, mine.w));
      uint64_t* from = peer_slot(peers, peers.rank, half, channel, lane);
      wait_for_pair(from, peers.timeout_ns, first_, second_);
      store_pair(from, kPending, kPending);
    }
    __syncwarp();
  }

  /// In all lanes of the channel. All lanes of the warp call it.
  __device__ __forceinline__ float4 of(int rank) const {
    const uint64_t first = __shfl_sync(0xffffffffu, first_, rank, lanes_);
    const uint64_t second = __shfl_sync(0xffffffffu, second_, rank, lanes_);
    return {low_of(first), high_of(first), low_of(second), high_of(second)};
  }

 private:
  int lanes_;
  uint64_t first_ = 0, second_ = 0;
};

}  // namespace iabn::kernels::cuda
