#pragma once

// Thin names for the PTX that the slab and cluster kernels are built from: barriers in shared memory, bulk copies, the
// transfer of registers between warpgroups, and words for the other blocks of a cluster. Compute capability 9.0
// (sm_90a).

#include <cuda.h>

#include <cstdint>

namespace iabn::kernels::cuda {

__device__ __forceinline__ uint32_t shared_address(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

/// A barrier in shared memory; `parity` of a wait is that of the phase it waits for: 0, 1, 0, ...
struct SharedBarrier {
  uint64_t state;

  __device__ __forceinline__ void init(int arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(&state)), "r"(arrivals) : "memory");
  }
  __device__ __forceinline__ void arrive() {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(&state)) : "memory");
  }
  __device__ __forceinline__ void arrive_and_expect(int bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(&state)), "r"(bytes)
                 : "memory");
  }
  __device__ __forceinline__ bool test(int parity) const {
    uint32_t done;
    asm volatile(
        "{\n"
        ".reg .pred done;\n"
        "mbarrier.test_wait.parity.shared::cta.b64 done, [%1], %2;\n"
        "selp.u32 %0, 1, 0, done;\n"
        "}"
        : "=r"(done)
        : "r"(shared_address(&state)), "r"(parity)
        : "memory");
    return done != 0;
  }
  __device__ __forceinline__ void wait(int parity) const {
    asm volatile(
        "{\n"
        ".reg .pred done;\n"
        "WAIT_%=:\n"
        "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
        "@!done bra WAIT_%=;\n"
        "}" ::"r"(shared_address(&state)),
        "r"(parity)
        : "memory");
  }
  /// The same for what other blocks of the cluster sent.
  __device__ __forceinline__ void wait_for_cluster(int parity) const {
    asm volatile(
        "{\n"
        ".reg .pred done;\n"
        "WAIT_%=:\n"
        "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 done, [%0], %1;\n"
        "@!done bra WAIT_%=;\n"
        "}" ::"r"(shared_address(&state)),
        "r"(parity)
        : "memory");
  }
};

/// How long the L2 should keep what a copy brings.
enum class Keep { kNormal, kLittle };

__device__ __forceinline__ uint64_t l2_policy(Keep keep) {
  uint64_t policy;
  if (keep == Keep::kLittle) {
    asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
  } else {
    asm("createpolicy.fractional.L2::evict_normal.b64 %0, 1.0;" : "=l"(policy));
  }
  return policy;
}

/// A count in shared memory that one thread raises and others wait for; the two may be any number of steps apart, which
/// the parity of a barrier could not tell.
struct SharedCounter {
  uint32_t count;

  __device__ __forceinline__ void init() { count = 0; }
  __device__ __forceinline__ void add() {
    asm volatile("red.relaxed.cta.shared::cta.add.u32 [%0], 1;" ::"r"(shared_address(&count)) : "memory");
  }
  __device__ __forceinline__ uint32_t now() const {
    uint32_t value;
    asm volatile("ld.relaxed.cta.shared::cta.u32 %0, [%1];" : "=r"(value) : "r"(shared_address(&count)) : "memory");
    return value;
  }
  __device__ __forceinline__ void wait(uint32_t reached) const {
    while (now() < reached) __nanosleep(64);
  }
};

/// Makes initialised barriers visible to the copy engine.
__device__ __forceinline__ void fence_barrier_init() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

/// One box of a two-dimensional tensor; rows and columns outside the tensor arrive as zeros, with the full byte count.
__device__ __forceinline__ void copy_box(void* to, const CUtensorMap& map, int column, int row, SharedBarrier& done,
                                         uint64_t policy) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1, {%2, "
      "%3}], [%4], %5;" ::"r"(shared_address(to)),
      "l"(&map), "r"(column), "r"(row), "r"(shared_address(&done.state)), "l"(policy)
      : "memory");
}

/// The same of a three-dimensional tensor.
__device__ __forceinline__ void copy_box(void* to, const CUtensorMap& map, int x, int y, int z, SharedBarrier& done,
                                         uint64_t policy) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1, {%2, %3, "
      "%4}], [%5], %6;" ::"r"(shared_address(to)),
      "l"(&map), "r"(x), "r"(y), "r"(z), "r"(shared_address(&done.state)), "l"(policy)
      : "memory");
}

/// `bytes` consecutive bytes; both addresses and the size are multiples of 16.
__device__ __forceinline__ void copy_bytes(void* to, const void* from, int bytes, SharedBarrier& done,
                                           uint64_t policy) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1], %2, [%3], %4;" ::
          "r"(shared_address(to)),
      "l"(from), "r"(bytes), "r"(shared_address(&done.state)), "l"(policy)
      : "memory");
}

/// The same regions, to the L2 only.
__device__ __forceinline__ void prefetch_box(const CUtensorMap& map, int column, int row) {
  asm volatile("cp.async.bulk.prefetch.tensor.2d.L2.global [%0, {%1, %2}];" ::"l"(&map), "r"(column), "r"(row)
               : "memory");
}
__device__ __forceinline__ void prefetch_bytes(const void* from, int bytes) {
  asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(from), "r"(bytes) : "memory");
}

/// Barrier number `id` (1 to 15) among kThreads threads of the block.
template <int kThreads>
__device__ __forceinline__ void group_barrier(int id) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "n"(kThreads) : "memory");
}

/// The same without waiting: what this thread wrote before is seen by those that wait.
template <int kThreads>
__device__ __forceinline__ void group_arrive(int id) {
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "n"(kThreads) : "memory");
}

__device__ __forceinline__ void group_barrier(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

/// All threads of a cluster's blocks: behind the wait all of them run, and barriers that were made visible by
/// fence_barrier_init() before arriving may be used. Nothing else is ordered: that would wait for all of memory.
__device__ __forceinline__ void cluster_arrive() {
  asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
}
__device__ __forceinline__ void cluster_wait() { asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory"); }

/// Stores 16 bytes into the same place of the cluster's block number `rank`, and says so at that block's barrier.
__device__ __forceinline__ void send(float4* place, SharedBarrier& arrived, int rank, float4 value) {
  asm volatile(
      "{\n"
      ".reg .u32 to, barrier;\n"
      "mapa.shared::cluster.u32 to, %0, %2;\n"
      "mapa.shared::cluster.u32 barrier, %1, %2;\n"
      "st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.f32 [to], {%3, %4, %5, %6}, [barrier];\n"
      "}" ::"r"(shared_address(place)),
      "r"(shared_address(&arrived.state)), "r"(rank), "f"(value.x), "f"(value.y), "f"(value.z), "f"(value.w)
      : "memory");
}

/// All threads of a warpgroup: its registers per thread from here on.
template <int kRegisters>
__device__ __forceinline__ void release_registers() {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
#endif
}
template <int kRegisters>
__device__ __forceinline__ void claim_registers() {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
#endif
}

}  // namespace iabn::kernels::cuda
