#pragma once

// Host side of the slab kernels (slab.cuh): whether they apply, how a launch is cut, and the launch itself.

#include <cuda_runtime_api.h>

#include <optional>

#include "iabn/kernels/cuda/peers.h"
#include "iabn/kernels/kernels.h"

namespace iabn::kernels::cuda {

/// How a launch is cut; good numbers come from slab_plan().
struct SlabPlan {
  int row_bytes = 0;    // channels last: bytes of a row in a slab, 64 or 128; contiguous: 0, a slab is a channel
  int blocks = 1;       // of a group, at most 160
  int groups = 1;       // blocks * groups is at most the number of multiprocessors
  int chunk_rows = 0;   // channels last: rows of a chunk; 0: the most that fit
  int ring_chunks = 0;  // chunks of a slab that may stay in the ring; 0: as many as it has
  int in_flight = 0;    // chunks requested ahead; 0: the default
  int prefetch = 0;     // chunks that the loader brings to the L2 while the ring is full, at most
};

enum class Pass { kForward, kBackward, kResidualForward, kResidualBackward };

/// Tensors that a pass reads.
constexpr int inputs_of(Pass pass) { return pass == Pass::kForward ? 1 : pass == Pass::kResidualBackward ? 3 : 2; }
constexpr bool is_forward(Pass pass) { return pass == Pass::kForward || pass == Pass::kResidualForward; }

/// The plan for a tensor on the current device; nothing where the slab kernels don't apply: other devices than compute
/// capability 9.0, float64, unaligned pointers, and channels (channels last) or runs (contiguous) that are no whole
/// number of 16-byte vectors. `pointer_bits`: all addresses, or-ed. `spare`: multiprocessors that it leaves alone.
std::optional<SlabPlan> slab_plan(const Shape& shape, int element_bytes, uintptr_t pointer_bits, Pass pass,
                                  int spare = 0);

/// Equal pieces of at most `tile_vectors` that a run of `run_vectors` is cut into; 0 where there are none but tiny
/// ones.
constexpr int run_pieces(int64_t run_vectors, int tile_vectors) {
  for (int64_t pieces = (run_vectors + tile_vectors - 1) / tile_vectors; run_vectors / pieces >= tile_vectors / 4;
       ++pieces) {
    if (run_vectors % pieces == 0) return static_cast<int>(pieces);
  }
  return run_vectors <= tile_vectors ? 1 : 0;
}

/// Device memory that a launch with this plan may need, in bytes (exchange_area.h).
size_t slab_workspace_bytes(const Shape& shape, int element_bytes, const SlabPlan& plan);

/// As the directions in kernels.h and peers.h; d_x must be there, and momentum is not cumulative. False, with nothing
/// done, where the device or the part of it that this stream may use can't hold all blocks at a time.
template <class T>
[[nodiscard]] bool slab_forward(T* x, const Shape& shape, const Affine<float>& affine, const ActivationSpec& activation,
                                const Running<float>& running, float* mean, float* var, const SlabPlan& plan,
                                void* workspace, cudaStream_t stream);
template <class T>
[[nodiscard]] bool slab_backward(const T* z, const T* d_z, T* d_x, const Shape& shape, const float* var,
                                 const Affine<float>& affine, const ActivationSpec& activation, float* d_weight,
                                 float* d_bias, const SlabPlan& plan, void* workspace, cudaStream_t stream);
template <class T>
[[nodiscard]] bool slab_peer_forward(T* x, const Shape& shape, const Affine<float>& affine,
                                     const ActivationSpec& activation, const Running<float>& running, float* mean,
                                     float* var, float* count, const Peers& peers, const SlabPlan& plan,
                                     void* workspace, cudaStream_t stream);
template <class T>
[[nodiscard]] bool slab_peer_backward(const T* z, const T* d_z, T* d_x, const Shape& shape, const float* count,
                                      const float* var, const Affine<float>& affine, const ActivationSpec& activation,
                                      float* d_weight, float* d_bias, const Peers& peers, const SlabPlan& plan,
                                      void* workspace, cudaStream_t stream);
template <class T>
[[nodiscard]] bool slab_residual_forward(T* x, const T* r, const Shape& shape, const Affine<float>& affine,
                                         const ActivationSpec& activation, const Running<float>& running, float* mean,
                                         float* var, const SlabPlan& plan, void* workspace, cudaStream_t stream);
template <class T>
[[nodiscard]] bool slab_residual_backward(const T* z, const T* d_z, const T* r, T* d_x, T* d_r, const Shape& shape,
                                          const float* var, const Affine<float>& affine,
                                          const ActivationSpec& activation, float* d_weight, float* d_bias,
                                          const SlabPlan& plan, void* workspace, cudaStream_t stream);

}  // namespace iabn::kernels::cuda
