// The operators on CUDA devices: the kernels of iabn/kernels/cuda on the current stream of x's device.

#include "iabn/kernels/cuda/kernels.h"
#include "iabn/kernels/cuda/merge.h"
#include "iabn/ops/cuda_context.h"
#include "iabn/ops/front.h"

namespace iabn::ops {

namespace {

struct Cuda {
  struct Context : CudaContext {
    using CudaContext::CudaContext;
    template <class T>
    void* workspace(const kernels::Shape& shape) {
      return allocate(kernels::cuda::workspace_bytes<T>(shape));
    }
  };

  template <class T>
  using Sum = kernels::accumulate_t<T>;

  template <class T, class... Args>
  static void forward(Context& context, T* x, const kernels::Shape& shape, const Args&... args) {
    kernels::cuda::forward<T>(x, shape, args..., context.workspace<T>(shape), context.stream);
  }
  template <class T>
  static void statistics(Context& context, const T* x, const kernels::Shape& shape, Sum<T>* packed) {
    kernels::cuda::statistics<T>(x, shape, packed, context.workspace<T>(shape), context.stream);
  }
  template <class T, class... Args>
  static void apply(Context& context, T* x, const Args&... args) {
    kernels::cuda::apply<T>(x, args..., context.stream);
  }
  template <class T>
  static void backward(Context& context, const T* z, const T* d_z, T* d_x, const kernels::Shape& shape,
                       const Sum<T>* var, const kernels::Affine<Sum<T>>& affine, const ActivationSpec& activation,
                       Sum<T>* d_weight, Sum<T>* d_bias) {
    kernels::cuda::backward<T>(z, d_z, d_x, shape, var, affine, activation, d_weight, d_bias,
                               context.workspace<T>(shape), context.stream);
  }
  template <class T>
  static void backward_frozen(Context& context, const T* z, const T* d_z, T* d_x, const kernels::Shape& shape,
                              const Sum<T>* var, const kernels::Affine<Sum<T>>& affine,
                              const ActivationSpec& activation, Sum<T>* d_weight, Sum<T>* d_bias) {
    kernels::cuda::backward_frozen<T>(z, d_z, d_x, shape, var, affine, activation, d_weight, d_bias,
                                      context.workspace<T>(shape), context.stream);
  }
  template <class T, class... Args>
  static void backward_reduce(Context& context, const T* z, const T* d_z, const kernels::Shape& shape,
                              const Args&... args) {
    kernels::cuda::backward_reduce<T>(z, d_z, shape, args..., context.workspace<T>(shape), context.stream);
  }
  template <class T, class... Args>
  static void backward_apply(Context& context, const T* z, const Args&... args) {
    kernels::cuda::backward_apply<T>(z, args..., context.stream);
  }
  template <class A, class... Args>
  static void backward_parameters(Context& context, const A* local_sums, const Args&... args) {
    kernels::cuda::backward_parameters<A>(local_sums, args..., context.stream);
  }
  template <class A>
  static void merge(Context& context, const kernels::Gathered<A>& gathered, const kernels::MergeResult<A>& result) {
    kernels::cuda::merge(gathered, result, context.stream);
  }
};

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(iabn, CUDA, m) { Front<Cuda>::register_ops(m); }

}  // namespace iabn::ops
