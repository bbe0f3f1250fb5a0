#pragma once

// From a plan to a launch. Included by the cluster_<type>.cu files alone, one storage type each.

#include <algorithm>
#include <array>
#include <utility>

#include "iabn/kernels/cuda/cluster.cuh"
#include "iabn/kernels/cuda/cluster.h"
#include "iabn/kernels/cuda/launch.h"
#include "iabn/kernels/cuda/tensor_map.h"

namespace iabn::kernels::cuda {
namespace {

/// A tensor as the copy engine sees it: [a part of a row, parts of all slabs, rows].
template <class T>
CUtensorMap slab_map(const T* input, const Shape& shape, const ClusterCut& cut) {
  constexpr int kWordBytes = 8;
  const int64_t part = cut.columns / cut.parts * 16;
  const int64_t row = shape.c * shape.s * static_cast<int64_t>(sizeof(T));
  return word_map(input, {{part / kWordBytes, row / part, shape.n},
                          {part, row},
                          {static_cast<int>(part / kWordBytes), cut.parts, cut.stage_rows}});
}

template <class Op>
using Inputs = std::array<const typename Op::Storage*, Op::kInputs>;
template <class Op>
using Outputs = std::array<typename Op::Storage*, Op::kOutputs>;

/// Clusters that run at a time: the multiprocessors of a cluster are neighbours, so some may be left over. A cluster
/// that started after all others had done their slabs would double the time.
template <class Kernel>
int resident_clusters(Kernel kernel, const cudaLaunchConfig_t& config) {
  using Key = std::array<size_t, 3>;
  thread_local std::array<std::pair<Key, int>, 4> asked{};
  int device = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  const Key key{static_cast<size_t>(device) << 32 | config.attrs->val.clusterDim.x, config.blockDim.x,
                config.dynamicSmemBytes};
  for (const auto& [its_key, clusters] : asked) {
    if (its_key == key) return clusters;
  }
  int clusters = 0;
  if (cudaOccupancyMaxActiveClusters(&clusters, kernel, &config) != cudaSuccess || clusters == 0) {
    (void)cudaGetLastError();
    return 0;
  }
  std::rotate(asked.begin(), asked.end() - 1, asked.end());
  asked.front() = {key, clusters};
  return clusters;
}

/// False where the device, or the part of it that this stream may use, can't hold a cluster.
template <class Op>
bool launch_cluster(const Op& op, const Inputs<Op>& inputs, const Outputs<Op>& outputs, const Shape& shape,
                    const ClusterPlan& plan, Pass pass, cudaStream_t stream) {
  const auto cut = cluster_cut(shape, sizeof(typename Op::Storage), pass, plan);
  if (!cut) return false;
  const auto kernel = cluster_kernel<Op>;
  // Always the same limit: it belongs to the kernel, not to this call.
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, ClusterBudget::kSharedBytes),
        "cudaFuncSetAttribute(cluster_kernel)");
  if (plan.blocks > 8) {
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1),
          "cudaFuncSetAttribute(cluster_kernel)");
  }
  ClusterJob<Op> job{.maps = {},
                     .op = op,
                     .outputs = {},
                     .pitch = shape.c * shape.s,
                     .channels = shape.c,
                     .run = static_cast<int>(shape.s),
                     .slabs = static_cast<int>(shape.c / plan.channels),
                     .slab_channels = plan.channels,
                     .columns = cut->columns,
                     .parts = cut->parts,
                     .rows = cut->rows,
                     .share = cut->share,
                     .stage_rows = cut->stage_rows,
                     .ring_stages = cut->ring_stages,
                     .blocks = plan.blocks};
  for (int i = 0; i < Op::kInputs; ++i) job.maps[i] = slab_map(inputs[i], shape, *cut);
  std::copy(outputs.begin(), outputs.end(), job.outputs);

  cudaLaunchAttribute cluster{};
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim = {static_cast<unsigned int>(plan.blocks), 1, 1};
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned int>(cut->clusters * plan.blocks));
  config.blockDim = dim3(static_cast<unsigned int>(cut->threads + 32));
  config.dynamicSmemBytes = static_cast<size_t>(cut->shared_bytes);
  config.stream = stream;
  config.attrs = &cluster;
  config.numAttrs = 1;
  if (plan.blocks > 2) {
    const int clusters = std::min(cut->clusters, resident_clusters(kernel, config));
    if (clusters == 0) return false;
    config.gridDim.x = static_cast<unsigned int>(clusters * plan.blocks);
  }
  const cudaError_t status = cudaLaunchKernelEx(&config, kernel, job);
  if (status == cudaErrorInvalidClusterSize || status == cudaErrorNotSupported ||
      status == cudaErrorLaunchOutOfResources) {
    (void)cudaGetLastError();
    return false;
  }
  check(status, "cluster_kernel");
  return true;
}

}  // namespace

template <class T>
bool cluster_forward(T* x, const Shape& shape, const Affine<float>& affine, const ActivationSpec& activation,
                     const Running<float>& running, float* mean, float* var, const ClusterPlan& plan,
                     cudaStream_t stream) {
  bool launched = false;
  with_compiled_activation<T>(activation, [&](const auto& act) {
    using Act = std::decay_t<decltype(act)>;
    launched = launch_cluster(ForwardOperation<T, Act>{act, affine, running, mean, var}, {x}, {x}, shape, plan,
                              Pass::kForward, stream);
  });
  return launched;
}

template <class T>
bool cluster_backward(const T* z, const T* d_z, T* d_x, const Shape& shape, const float* var,
                      const Affine<float>& affine, const ActivationSpec& activation, float* d_weight, float* d_bias,
                      const ClusterPlan& plan, cudaStream_t stream) {
  bool launched = false;
  with_compiled_activation<T>(activation, [&](const auto& act) {
    using Act = std::decay_t<decltype(act)>;
    launched = launch_cluster(BackwardOperation<T, Act>{act, affine, var, d_weight, d_bias}, {z, d_z}, {d_x}, shape,
                              plan, Pass::kBackward, stream);
  });
  return launched;
}

template <class T>
bool cluster_residual_forward(T* x, const T* r, const Shape& shape, const Affine<float>& affine,
                              const ActivationSpec& activation, const Running<float>& running, float* mean, float* var,
                              const ClusterPlan& plan, cudaStream_t stream) {
  bool launched = false;
  with_compiled_activation<T>(activation, [&](const auto& act) {
    using Act = std::decay_t<decltype(act)>;
    launched = launch_cluster(ForwardOperation<T, Act, true>{act, affine, running, mean, var}, {x, r}, {x}, shape, plan,
                              Pass::kResidualForward, stream);
  });
  return launched;
}

template <class T>
bool cluster_residual_backward(const T* z, const T* d_z, const T* r, T* d_x, T* d_r, const Shape& shape,
                               const float* var, const Affine<float>& affine, const ActivationSpec& activation,
                               float* d_weight, float* d_bias, const ClusterPlan& plan, cudaStream_t stream) {
  bool launched = false;
  with_compiled_activation<T>(activation, [&](const auto& act) {
    using Act = std::decay_t<decltype(act)>;
    launched = launch_cluster(BackwardOperation<T, Act, true>{act, affine, var, d_weight, d_bias}, {z, d_z, r},
                              {d_x, d_r}, shape, plan, Pass::kResidualBackward, stream);
  });
  return launched;
}

#define IABN_INSTANTIATE_CLUSTER_FORWARD(T)                                                                           \
  template bool cluster_forward(T*, const Shape&, const Affine<float>&, const ActivationSpec&, const Running<float>&, \
                                float*, float*, const ClusterPlan&, cudaStream_t);                                    \
  template bool cluster_residual_forward(T*, const T*, const Shape&, const Affine<float>&, const ActivationSpec&,     \
                                         const Running<float>&, float*, float*, const ClusterPlan&, cudaStream_t)
#define IABN_INSTANTIATE_CLUSTER_BACKWARD(T)                                                                \
  template bool cluster_backward(const T*, const T*, T*, const Shape&, const float*, const Affine<float>&,  \
                                 const ActivationSpec&, float*, float*, const ClusterPlan&, cudaStream_t);  \
  template bool cluster_residual_backward(const T*, const T*, const T*, T*, T*, const Shape&, const float*, \
                                          const Affine<float>&, const ActivationSpec&, float*, float*,      \
                                          const ClusterPlan&, cudaStream_t)

}  // namespace iabn::kernels::cuda
