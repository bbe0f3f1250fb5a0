#pragma once

// From a plan to a launch. Included by the slab_<direction>_<type>.cu files alone.

#include <algorithm>
#include <array>
#include <stdexcept>
#include <string>

#include "iabn/kernels/cuda/exchange_area.h"
#include "iabn/kernels/cuda/launch.h"
#include "iabn/kernels/cuda/slab.cuh"
#include "iabn/kernels/cuda/slab.h"
#include "iabn/kernels/cuda/slab_source.cuh"
#include "iabn/kernels/cuda/tensor_map.h"

namespace iabn::kernels::cuda {
namespace {

template <class T, int kRowBytes, int kInputs>
void fill_source(RowSource<T, kRowBytes, kInputs>& source, const auto& inputs, const Shape& shape,
                 const SlabPlan& plan) {
  using Source = RowSource<T, kRowBytes, kInputs>;
  source.channels = shape.c;
  source.rows = static_cast<int>(shape.count());
  source.chunk_rows = plan.chunk_rows > 0 ? std::min(plan.chunk_rows, Source::kMaxRows) : Source::kMaxRows;
  for (int i = 0; i < kInputs; ++i) {
    source.maps[i] = row_map(inputs[i], sizeof(T), shape.count(), shape.c, source.chunk_rows, Source::kChannels);
  }
}

template <class T, int kInputs>
void fill_source(RunSource<T, kInputs>& source, const auto& inputs, const Shape& shape, const SlabPlan&) {
  using Source = RunSource<T, kInputs>;
  for (int i = 0; i < kInputs; ++i) source.inputs[i] = inputs[i];
  source.channels = shape.c;
  source.runs = static_cast<int>(shape.n);
  source.run_vectors = static_cast<int>(shape.s / Source::kWidth);
  source.pieces = run_pieces(source.run_vectors, Source::kTileVectors);
  source.piece = source.run_vectors / source.pieces;
  source.chunk_runs = source.pieces > 1 ? 1 : Source::kTileVectors / source.run_vectors;
  source.inverse = ((1u << 21) + source.piece - 1) / source.piece;
}

template <class Op>
using Inputs = std::array<const typename Op::Storage*, Op::kInputs>;
template <class Op>
using Outputs = std::array<typename Op::Storage*, Op::kOutputs>;

/// False where the device, or the part of it that this stream may use, can't hold all blocks at a time.
template <class Source, class Op>
bool launch_slab(const Op& op, const Inputs<Op>& inputs, const Outputs<Op>& outputs, const Shape& shape,
                 const SlabPlan& plan, void* workspace, cudaStream_t stream, const Peers& peers) {
  using Budget = SlabBudget<Op, Source>;
  const auto kernel = slab_kernel<Op, Source>;
  // Once per device would do, but is not worth the state: the runtime takes under a microsecond. It comes first because
  // it makes the device's context current, which a tensor map may need in a thread that has not used the device yet.
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, Budget::kSharedBytes),
        "cudaFuncSetAttribute(slab_kernel)");
  SlabJob<Op, Source> job{{}, op, {}, {}, peers, plan.groups, Budget::kStages, 0, 0};
  fill_source(job.source, inputs, shape, plan);
  std::copy(outputs.begin(), outputs.end(), job.outputs);
  const int64_t channels = int64_t{job.source.slabs()} * Source::kChannels;
  ExchangeArea area(Exchange::bytes(channels), workspace, stream);
  job.exchange = {area.words(), channels, plan.blocks, static_cast<uint4*>(area.to_clear()),
                  static_cast<int64_t>(area.bytes_to_clear() / sizeof(uint4))};
  if (plan.ring_chunks > 0 && plan.ring_chunks < Budget::kStages) job.ring_chunks = plan.ring_chunks;
  job.prefetch = plan.prefetch;
  job.in_flight = plan.in_flight > 0 && plan.in_flight < Budget::kStages ? plan.in_flight : 3;

  cudaLaunchAttribute cooperative{};
  cooperative.id = cudaLaunchAttributeCooperative;
  cooperative.val.cooperative = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned int>(plan.blocks * plan.groups));
  config.blockDim = dim3(Budget::kThreads);
  config.dynamicSmemBytes = Budget::kSharedBytes;
  config.stream = stream;
  config.attrs = &cooperative;
  config.numAttrs = 1;
  const cudaError_t status = cudaLaunchKernelEx(&config, kernel, job);
  if (status == cudaErrorCooperativeLaunchTooLarge || status == cudaErrorNotSupported) {
    (void)cudaGetLastError();
    return false;
  }
  check(status, "slab_kernel");
  area.launched();
  return true;
}

/// Calls launch_slab with the source that the plan asks for.
template <class Op>
bool launch_plan(const Op& op, const Inputs<Op>& inputs, const Outputs<Op>& outputs, const Shape& shape,
                 const SlabPlan& plan, void* workspace, cudaStream_t stream, const Peers& peers = {}) {
  using T = typename Op::Storage;
  const auto launch = [&]<class Source>(Source*) {
    return launch_slab<Source>(op, inputs, outputs, shape, plan, workspace, stream, peers);
  };
  if (plan.row_bytes == 64) return launch(static_cast<RowSource<T, 64, Op::kInputs>*>(nullptr));
  if (plan.row_bytes == 128) return launch(static_cast<RowSource<T, 128, Op::kInputs>*>(nullptr));
  return launch(static_cast<RunSource<T, Op::kInputs>*>(nullptr));
}

}  // namespace

template <class T>
bool slab_forward(T* x, const Shape& shape, const Affine<float>& affine, const ActivationSpec& activation,
                  const Running<float>& running, float* mean, float* var, const SlabPlan& plan, void* workspace,
                  cudaStream_t stream) {
  bool launched = false;
  with_compiled_activation<T>(activation, [&](const auto& act) {
    using Act = std::decay_t<decltype(act)>;
    launched = launch_plan(ForwardOperation<T, Act>{act, affine, running, mean, var}, {x}, {x}, shape, plan, workspace,
                           stream);
  });
  return launched;
}

template <class T>
bool slab_backward(const T* z, const T* d_z, T* d_x, const Shape& shape, const float* var, const Affine<float>& affine,
                   const ActivationSpec& activation, float* d_weight, float* d_bias, const SlabPlan& plan,
                   void* workspace, cudaStream_t stream) {
  bool launched = false;
  with_compiled_activation<T>(activation, [&](const auto& act) {
    using Act = std::decay_t<decltype(act)>;
    launched = launch_plan(BackwardOperation<T, Act>{act, affine, var, d_weight, d_bias}, {z, d_z}, {d_x}, shape, plan,
                           workspace, stream);
  });
  return launched;
}

template <class T>
bool slab_peer_forward(T* x, const Shape& shape, const Affine<float>& affine, const ActivationSpec& activation,
                       const Running<float>& running, float* mean, float* var, float* count, const Peers& peers,
                       const SlabPlan& plan, void* workspace, cudaStream_t stream) {
  bool launched = false;
  with_compiled_activation<T>(activation, [&](const auto& act) {
    using Act = std::decay_t<decltype(act)>;
    launched = launch_plan(ForwardOperation<T, Act, false, true>{act, affine, running, mean, var, count}, {x}, {x},
                           shape, plan, workspace, stream, peers);
  });
  return launched;
}

template <class T>
bool slab_peer_backward(const T* z, const T* d_z, T* d_x, const Shape& shape, const float* count, const float* var,
                        const Affine<float>& affine, const ActivationSpec& activation, float* d_weight, float* d_bias,
                        const Peers& peers, const SlabPlan& plan, void* workspace, cudaStream_t stream) {
  bool launched = false;
  with_compiled_activation<T>(activation, [&](const auto& act) {
    using Act = std::decay_t<decltype(act)>;
    launched = launch_plan(BackwardOperation<T, Act, false, true>{act, affine, var, d_weight, d_bias, count}, {z, d_z},
                           {d_x}, shape, plan, workspace, stream, peers);
  });
  return launched;
}

template <class T>
bool slab_residual_forward(T* x, const T* r, const Shape& shape, const Affine<float>& affine,
                           const ActivationSpec& activation, const Running<float>& running, float* mean, float* var,
                           const SlabPlan& plan, void* workspace, cudaStream_t stream) {
  bool launched = false;
  with_compiled_activation<T>(activation, [&](const auto& act) {
    using Act = std::decay_t<decltype(act)>;
    launched = launch_plan(ForwardOperation<T, Act, true>{act, affine, running, mean, var}, {x, r}, {x}, shape, plan,
                           workspace, stream);
  });
  return launched;
}

template <class T>
bool slab_residual_backward(const T* z, const T* d_z, const T* r, T* d_x, T* d_r, const Shape& shape, const float* var,
                            const Affine<float>& affine, const ActivationSpec& activation, float* d_weight,
                            float* d_bias, const SlabPlan& plan, void* workspace, cudaStream_t stream) {
  bool launched = false;
  with_compiled_activation<T>(activation, [&](const auto& act) {
    using Act = std::decay_t<decltype(act)>;
    launched = launch_plan(BackwardOperation<T, Act, true>{act, affine, var, d_weight, d_bias}, {z, d_z, r}, {d_x, d_r},
                           shape, plan, workspace, stream);
  });
  return launched;
}

#define IABN_INSTANTIATE_SLAB_RESIDUAL_FORWARD(T)                                                              \
  template bool slab_residual_forward(T*, const T*, const Shape&, const Affine<float>&, const ActivationSpec&, \
                                      const Running<float>&, float*, float*, const SlabPlan&, void*, cudaStream_t)
#define IABN_INSTANTIATE_SLAB_RESIDUAL_BACKWARD(T)                                                                   \
  template bool slab_residual_backward(const T*, const T*, const T*, T*, T*, const Shape&, const float*,             \
                                       const Affine<float>&, const ActivationSpec&, float*, float*, const SlabPlan&, \
                                       void*, cudaStream_t)
#define IABN_INSTANTIATE_SLAB_FORWARD(T)                                                                           \
  template bool slab_forward(T*, const Shape&, const Affine<float>&, const ActivationSpec&, const Running<float>&, \
                             float*, float*, const SlabPlan&, void*, cudaStream_t)
#define IABN_INSTANTIATE_SLAB_BACKWARD(T)                                                               \
  template bool slab_backward(const T*, const T*, T*, const Shape&, const float*, const Affine<float>&, \
                              const ActivationSpec&, float*, float*, const SlabPlan&, void*, cudaStream_t)
#define IABN_INSTANTIATE_SLAB_PEERS(T)                                                                                 \
  template bool slab_peer_forward(T*, const Shape&, const Affine<float>&, const ActivationSpec&,                       \
                                  const Running<float>&, float*, float*, float*, const Peers&, const SlabPlan&, void*, \
                                  cudaStream_t);                                                                       \
  template bool slab_peer_backward(const T*, const T*, T*, const Shape&, const float*, const float*,                   \
                                   const Affine<float>&, const ActivationSpec&, float*, float*, const Peers&,          \
                                   const SlabPlan&, void*, cudaStream_t)

}  // namespace iabn::kernels::cuda
