#pragma once

// CUDA kernels. Formulas, names and layouts: iabn/kernels/kernels.h. Instantiated for double, float, Half and BFloat16.
//
// Every function enqueues on `stream` and returns without waiting; all of them can be captured in a CUDA graph. Nothing
// is allocated but 4 MiB at the first call on a stream, and of each graph (exchange_area.h). `workspace`
// is device memory of at least workspace_bytes<T>(shape) bytes, 256-byte aligned, that must stay valid until the stream
// has passed; its contents need no initialisation. A refused launch throws std::runtime_error with CUDA's message. All
// pointers are device pointers.

#include <cstddef>
#include <cstdint>

#include <cuda_runtime_api.h>

#include "iabn/kernels/kernels.h"

namespace iabn::kernels::cuda {

/// Enough for any of the functions below on a tensor of this shape.
template <class T>
size_t workspace_bytes(const Shape& shape);

/// z over x; mean [C] and biased var [C] of this batch; updates `running`.
template <class T>
void forward(T* x, const Shape& shape, const Affine<accumulate_t<T>>& affine, const ActivationSpec& activation,
             const Running<accumulate_t<T>>& running, accumulate_t<T>* mean, accumulate_t<T>* var, void* workspace,
             cudaStream_t stream);

/// packed [3, C]: count, mean, M2.
template <class T>
void statistics(const T* x, const Shape& shape, accumulate_t<T>* packed, void* workspace, cudaStream_t stream);

/// z over x from given statistics (batch, merged or running).
template <class T>
void apply(T* x, const Shape& shape, const accumulate_t<T>* mean, const accumulate_t<T>* var,
           const Affine<accumulate_t<T>>& affine, const ActivationSpec& activation, cudaStream_t stream);

/// Batch statistics. d_x may be null (not wanted) or equal d_z (overwritten); d_weight and d_bias [C] may be null.
template <class T>
void backward(const T* z, const T* d_z, T* d_x, const Shape& shape, const accumulate_t<T>* var,
              const Affine<accumulate_t<T>>& affine, const ActivationSpec& activation, accumulate_t<T>* d_weight,
              accumulate_t<T>* d_bias, void* workspace, cudaStream_t stream);

/// The residual form, z = act(y + r): forward() with `r`, of x's shape and layout, added before the activation.
/// r must not overlap x.
template <class T>
void residual_forward(T* x, const T* r, const Shape& shape, const Affine<accumulate_t<T>>& affine,
                      const ActivationSpec& activation, const Running<accumulate_t<T>>& running, accumulate_t<T>* mean,
                      accumulate_t<T>* var, void* workspace, cudaStream_t stream);

/// Backward of the residual form, y' = act^-1(z) - r - beta: d_x, and d_r = d_y. Both must be there, and neither may
/// overlap the other, z or r; one of them may be d_z (overwritten). What the rounding of z hides of a small y' behind a
/// large r is lost (docs/design/1-maths.md).
template <class T>
void residual_backward(const T* z, const T* d_z, const T* r, T* d_x, T* d_r, const Shape& shape,
                       const accumulate_t<T>* var, const Affine<accumulate_t<T>>& affine,
                       const ActivationSpec& activation, accumulate_t<T>* d_weight, accumulate_t<T>* d_bias,
                       void* workspace, cudaStream_t stream);

/// Frozen statistics: d_x = gamma*rstd*d_y, d_weight = sum d_y*y'/gamma (0 where gamma is 0). Nulls as in backward.
template <class T>
void backward_frozen(const T* z, const T* d_z, T* d_x, const Shape& shape, const accumulate_t<T>* var,
                     const Affine<accumulate_t<T>>& affine, const ActivationSpec& activation, accumulate_t<T>* d_weight,
                     accumulate_t<T>* d_bias, void* workspace, cudaStream_t stream);

/// sums [4, C]: A0, A1, B1, B2.
template <class T>
void backward_reduce(const T* z, const T* d_z, const Shape& shape, const Affine<accumulate_t<T>>& affine,
                     const ActivationSpec& activation, accumulate_t<T>* sums, void* workspace, cudaStream_t stream);

/// d_x from sums over all `count[0]` elements per channel (of every process; read on the device).
template <class T>
void backward_apply(const T* z, const T* d_z, T* d_x, const Shape& shape, const accumulate_t<T>* sums,
                    const accumulate_t<T>* count, const accumulate_t<T>* var, const Affine<accumulate_t<T>>& affine,
                    const ActivationSpec& activation, cudaStream_t stream);

/// Gradients of the parameters from this process's sums, with mu and scale from the sums of all processes.
template <class A>
void backward_parameters(const A* local_sums, const A* sums, const A* count, int64_t channels, const Affine<A>& affine,
                         A* d_weight, A* d_bias, cudaStream_t stream);

}  // namespace iabn::kernels::cuda
