#pragma once

// The directions as two plain passes (forward.cuh, backward.cuh): for every device, dtype, shape and alignment.

#include <cuda_runtime_api.h>

#include "iabn/kernels/kernels.h"

namespace iabn::kernels::cuda {

/// As the directions in kernels.h.
template <class T>
void two_pass_forward(T* x, const Shape& shape, const Affine<accumulate_t<T>>& affine, const ActivationSpec& activation,
                      const Running<accumulate_t<T>>& running, accumulate_t<T>* mean, accumulate_t<T>* var,
                      void* workspace, cudaStream_t stream);
template <class T>
void two_pass_residual_forward(T* x, const T* r, const Shape& shape, const Affine<accumulate_t<T>>& affine,
                               const ActivationSpec& activation, const Running<accumulate_t<T>>& running,
                               accumulate_t<T>* mean, accumulate_t<T>* var, void* workspace, cudaStream_t stream);
template <class T>
void two_pass_residual_backward(const T* z, const T* d_z, const T* r, T* d_x, T* d_r, const Shape& shape,
                                const accumulate_t<T>* var, const Affine<accumulate_t<T>>& affine,
                                const ActivationSpec& activation, accumulate_t<T>* d_weight, accumulate_t<T>* d_bias,
                                void* workspace, cudaStream_t stream);
template <class T>
void two_pass_backward(const T* z, const T* d_z, T* d_x, const Shape& shape, const accumulate_t<T>* var,
                       const Affine<accumulate_t<T>>& affine, const ActivationSpec& activation,
                       accumulate_t<T>* d_weight, accumulate_t<T>* d_bias, void* workspace, cudaStream_t stream);

/// Device memory that any of the two-pass functions needs for a tensor of this shape, in bytes.
template <class T>
size_t two_pass_workspace_bytes(const Shape& shape);

}  // namespace iabn::kernels::cuda
