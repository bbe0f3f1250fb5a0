// The fused directions of kernels.h: the cluster kernels where they are the fastest, the channel kernels where a
// channel fits one block, the slab kernels where they apply, else two plain passes.

#include <algorithm>
#include <optional>

#include "iabn/kernels/cuda/channel.h"
#include "iabn/kernels/cuda/cluster.h"
#include "iabn/kernels/cuda/kernels.h"
#include "iabn/kernels/cuda/slab.h"
#include "iabn/kernels/cuda/two_pass.h"

namespace iabn::kernels::cuda {
namespace {

template <class... Pointers>
uintptr_t bits(const Pointers*... pointers) {
  return (reinterpret_cast<uintptr_t>(pointers) | ...);
}

/// A cumulative average reads the count of batches in the launch that counts; only the two passes order that.
template <class A>
bool cumulative(const Running<A>& running) {
  return running.momentum < 0 && running.batches;
}

}  // namespace

template <class T>
size_t workspace_bytes(const Shape& shape) {
  size_t bytes = two_pass_workspace_bytes<T>(shape);
  for (const Pass pass : {Pass::kForward, Pass::kBackward, Pass::kResidualForward, Pass::kResidualBackward}) {
    const auto plan = slab_plan(shape, sizeof(T), 0, pass);
    if (plan) bytes = std::max(bytes, slab_workspace_bytes(shape, sizeof(T), *plan));
  }
  return bytes;
}

template <class T>
void forward(T* x, const Shape& shape, const Affine<accumulate_t<T>>& affine, const ActivationSpec& activation,
             const Running<accumulate_t<T>>& running, accumulate_t<T>* mean, accumulate_t<T>* var, void* workspace,
             cudaStream_t stream) {
  if constexpr (sizeof(T) <= 4) {
    if (!cumulative(running)) {
      const int width = channel_width<T>(shape, bits(x), 1);
      if (const auto plan = cluster_plan(shape, sizeof(T), bits(x), Pass::kForward, width > 0)) {
        if (cluster_forward<T>(x, shape, affine, activation, running, mean, var, *plan, stream)) return;
      }
      if (width > 0) {
        return channel_forward<T>(x, shape, affine, activation, running, mean, var, width, stream);
      }
      if (const auto plan = slab_plan(shape, sizeof(T), bits(x), Pass::kForward)) {
        if (slab_forward<T>(x, shape, affine, activation, running, mean, var, *plan, workspace, stream)) return;
      }
    }
  }
  two_pass_forward<T>(x, shape, affine, activation, running, mean, var, workspace, stream);
}

template <class T>
void backward(const T* z, const T* d_z, T* d_x, const Shape& shape, const accumulate_t<T>* var,
              const Affine<accumulate_t<T>>& affine, const ActivationSpec& activation, accumulate_t<T>* d_weight,
              accumulate_t<T>* d_bias, void* workspace, cudaStream_t stream) {
  if constexpr (sizeof(T) <= 4) {
    if (d_x) {
      const int width = channel_width<T>(shape, bits(z, d_z, d_x), 2);
      if (const auto plan = cluster_plan(shape, sizeof(T), bits(z, d_z, d_x), Pass::kBackward, width > 0)) {
        const bool launched =
            cluster_backward<T>(z, d_z, d_x, shape, var, affine, activation, d_weight, d_bias, *plan, stream);
        if (launched) return;
      }
      if (width > 0) {
        return channel_backward<T>(z, d_z, d_x, shape, var, affine, activation, d_weight, d_bias, width, stream);
      }
      if (const auto plan = slab_plan(shape, sizeof(T), bits(z, d_z, d_x), Pass::kBackward)) {
        const bool launched =
            slab_backward<T>(z, d_z, d_x, shape, var, affine, activation, d_weight, d_bias, *plan, workspace, stream);
        if (launched) return;
      }
    }
  }
  two_pass_backward<T>(z, d_z, d_x, shape, var, affine, activation, d_weight, d_bias, workspace, stream);
}

template <class T>
void residual_forward(T* x, const T* r, const Shape& shape, const Affine<accumulate_t<T>>& affine,
                      const ActivationSpec& activation, const Running<accumulate_t<T>>& running, accumulate_t<T>* mean,
                      accumulate_t<T>* var, void* workspace, cudaStream_t stream) {
  if constexpr (sizeof(T) <= 4) {
    if (!cumulative(running)) {
      if (const auto plan = cluster_plan(shape, sizeof(T), bits(x, r), Pass::kResidualForward, false)) {
        const bool launched =
            cluster_residual_forward<T>(x, r, shape, affine, activation, running, mean, var, *plan, stream);
        if (launched) return;
      }
      if (const auto plan = slab_plan(shape, sizeof(T), bits(x, r), Pass::kResidualForward)) {
        const bool launched =
            slab_residual_forward<T>(x, r, shape, affine, activation, running, mean, var, *plan, workspace, stream);
        if (launched) return;
      }
    }
  }
  two_pass_residual_forward<T>(x, r, shape, affine, activation, running, mean, var, workspace, stream);
}

template <class T>
void residual_backward(const T* z, const T* d_z, const T* r, T* d_x, T* d_r, const Shape& shape,
                       const accumulate_t<T>* var, const Affine<accumulate_t<T>>& affine,
                       const ActivationSpec& activation, accumulate_t<T>* d_weight, accumulate_t<T>* d_bias,
                       void* workspace, cudaStream_t stream) {
  if constexpr (sizeof(T) <= 4) {
    const uintptr_t all = bits(z, d_z, r, d_x, d_r);
    if (const auto plan = cluster_plan(shape, sizeof(T), all, Pass::kResidualBackward, false)) {
      const bool launched = cluster_residual_backward<T>(z, d_z, r, d_x, d_r, shape, var, affine, activation, d_weight,
                                                         d_bias, *plan, stream);
      if (launched) return;
    }
    if (const auto plan = slab_plan(shape, sizeof(T), all, Pass::kResidualBackward)) {
      const bool launched = slab_residual_backward<T>(z, d_z, r, d_x, d_r, shape, var, affine, activation, d_weight,
                                                      d_bias, *plan, workspace, stream);
      if (launched) return;
    }
  }
  two_pass_residual_backward<T>(z, d_z, r, d_x, d_r, shape, var, affine, activation, d_weight, d_bias, workspace,
                                stream);
}

#define IABN_INSTANTIATE(T)                                                                                            \
  template size_t workspace_bytes<T>(const Shape&);                                                                    \
  template void forward(T*, const Shape&, const Affine<accumulate_t<T>>&, const ActivationSpec&,                       \
                        const Running<accumulate_t<T>>&, accumulate_t<T>*, accumulate_t<T>*, void*, cudaStream_t);     \
  template void backward(const T*, const T*, T*, const Shape&, const accumulate_t<T>*, const Affine<accumulate_t<T>>&, \
                         const ActivationSpec&, accumulate_t<T>*, accumulate_t<T>*, void*, cudaStream_t);              \
  template void residual_forward(T*, const T*, const Shape&, const Affine<accumulate_t<T>>&, const ActivationSpec&,    \
                                 const Running<accumulate_t<T>>&, accumulate_t<T>*, accumulate_t<T>*, void*,           \
                                 cudaStream_t);                                                                        \
  template void residual_backward(const T*, const T*, const T*, T*, T*, const Shape&, const accumulate_t<T>*,          \
                                  const Affine<accumulate_t<T>>&, const ActivationSpec&, accumulate_t<T>*,             \
                                  accumulate_t<T>*, void*, cudaStream_t)
IABN_INSTANTIATE(double);
IABN_INSTANTIATE(float);
IABN_INSTANTIATE(Half);
IABN_INSTANTIATE(BFloat16);
#undef IABN_INSTANTIATE

}  // namespace iabn::kernels::cuda
