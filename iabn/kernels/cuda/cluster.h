#pragma once

// Host side of the cluster kernels (cluster.cuh): whether they apply, how a launch is cut, and the launch itself.

#include <cuda_runtime_api.h>

#include <optional>

#include "iabn/kernels/cuda/slab.h"
#include "iabn/kernels/kernels.h"

namespace iabn::kernels::cuda {

/// How a launch is cut; good numbers come from cluster_plan().
struct ClusterPlan {
  int channels = 0;   // of a slab; they divide C
  int blocks = 1;     // of a cluster: 1, 2, 4, 8 or 16
  int threads = 256;  // of a block, about: a whole number of rows at a time
  int resident = 1;   // blocks that shall share a multiprocessor
};

/// What follows from a plan. Rows are those of the slab: one per sample.
struct ClusterCut {
  int columns;       // 16-byte vectors of a row
  int parts;         // equal parts of a row, each short enough for a box of the copy engine
  int rows;          // of the slab
  int share;         // rows of a block; a multiple of stage_rows
  int stage_rows;    // rows that arrive together
  int ring_stages;   // that a block has room for
  int threads;       // without the loader's warp
  int shared_bytes;  // of a block
  int clusters;      // of a launch, at most; each takes several slabs in turn
};

/// Nothing where a slab of this plan does not fit its blocks, or its rows are no whole number of vectors, and for
/// tensors that are channels last.
std::optional<ClusterCut> cluster_cut(const Shape& shape, int element_bytes, Pass pass, const ClusterPlan& plan);

/// The plan for a tensor on the current device; nothing where other kernels are better or these don't apply: other
/// devices than compute capability 9.0, float64, unaligned pointers. `pointer_bits`: all addresses, or-ed.
/// `channel_kernel`: whether a channel kernel (channel.h) takes the tensor.
std::optional<ClusterPlan> cluster_plan(const Shape& shape, int element_bytes, uintptr_t pointer_bits, Pass pass,
                                        bool channel_kernel);

/// As the directions in kernels.h; d_x must be there, and momentum is not cumulative. False, with nothing done, where
/// the device can't hold a cluster.
template <class T>
[[nodiscard]] bool cluster_forward(T* x, const Shape& shape, const Affine<float>& affine,
                                   const ActivationSpec& activation, const Running<float>& running, float* mean,
                                   float* var, const ClusterPlan& plan, cudaStream_t stream);
template <class T>
[[nodiscard]] bool cluster_backward(const T* z, const T* d_z, T* d_x, const Shape& shape, const float* var,
                                    const Affine<float>& affine, const ActivationSpec& activation, float* d_weight,
                                    float* d_bias, const ClusterPlan& plan, cudaStream_t stream);
template <class T>
[[nodiscard]] bool cluster_residual_forward(T* x, const T* r, const Shape& shape, const Affine<float>& affine,
                                            const ActivationSpec& activation, const Running<float>& running,
                                            float* mean, float* var, const ClusterPlan& plan, cudaStream_t stream);
template <class T>
[[nodiscard]] bool cluster_residual_backward(const T* z, const T* d_z, const T* r, T* d_x, T* d_r, const Shape& shape,
                                             const float* var, const Affine<float>& affine,
                                             const ActivationSpec& activation, float* d_weight, float* d_bias,
                                             const ClusterPlan& plan, cudaStream_t stream);

}  // namespace iabn::kernels::cuda
