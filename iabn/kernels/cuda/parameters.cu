// Gradients of the parameters from sums that other processes contributed to; a few numbers per channel. Also the size
// of the two-pass workspace, which no kernel knows.

#include <algorithm>

#include "iabn/kernels/cuda/kernels.h"
#include "iabn/kernels/cuda/launch.h"
#include "iabn/kernels/cuda/launch_policy.h"
#include "iabn/kernels/cuda/two_pass.h"

namespace iabn::kernels::cuda {
namespace {

constexpr int kParameterThreads = 128;

template <class A>
__global__ void __launch_bounds__(kParameterThreads)
    backward_parameters_kernel(const A* local_sums, const A* sums, const A* count, int64_t channels, Affine<A> affine,
                               A* d_weight, A* d_bias) {
  const int64_t c = int64_t{blockIdx.x} * kParameterThreads + threadIdx.x;
  if (c >= channels) return;
  const A a0 = local_sums[c];
  if (d_bias) d_bias[c] = a0;
  if (!d_weight) return;
  const A m = *count;
  A d_gamma = A(0);
  if (m > A(0)) {
    const Recovery<A> r = recovery(affine.gamma(c), m, sums[2 * channels + c], sums[3 * channels + c]);
    d_gamma = gamma_gradient(r, a0, local_sums[channels + c]);
  }
  d_weight[c] = d_gamma * affine.gamma_sign(c);
}

}  // namespace

template <class A>
void backward_parameters(const A* local_sums, const A* sums, const A* count, int64_t channels, const Affine<A>& affine,
                         A* d_weight, A* d_bias, cudaStream_t stream) {
  if (channels == 0 || (!d_weight && !d_bias)) return;
  const int64_t blocks = (channels + kParameterThreads - 1) / kParameterThreads;
  backward_parameters_kernel<<<static_cast<unsigned int>(blocks), kParameterThreads, 0, stream>>>(
      local_sums, sums, count, channels, affine, d_weight, d_bias);
  check_launch("backward_parameters_kernel");
}

/// The vector width and with it the walk depend on the pointers' alignment, which is not known here: the most over all.
template <class T>
size_t two_pass_workspace_bytes(const Shape& shape) {
  const int sm_count = multiprocessors();
  int64_t numbers = 0;
  for (uintptr_t alignment = sizeof(T); alignment <= LaunchPolicy::kVectorBytes; alignment *= 2) {
    const auto pointers = {reinterpret_cast<const void*>(alignment)};
    const View forward_view = make_view<T>(shape, pointers, LaunchPolicy::kFoldBelow);
    const View backward_view = make_view<T>(shape, pointers, LaunchPolicy::kFoldBackwardReduceBelow);
    const int64_t forward = 2 * statistics_walk<T>(forward_view, sm_count).splits * forward_view.shape.c;
    const int64_t backward =
        4 * (shape.c + backward_reduce_walk<T>(backward_view, sm_count).splits * backward_view.shape.c);
    numbers = std::max({numbers, forward, backward});
  }
  return static_cast<size_t>(numbers) * sizeof(accumulate_t<T>);
}

template void backward_parameters(const float*, const float*, const float*, int64_t, const Affine<float>&, float*,
                                  float*, cudaStream_t);
template void backward_parameters(const double*, const double*, const double*, int64_t, const Affine<double>&, double*,
                                  double*, cudaStream_t);
template size_t two_pass_workspace_bytes<double>(const Shape&);
template size_t two_pass_workspace_bytes<float>(const Shape&);
template size_t two_pass_workspace_bytes<Half>(const Shape&);
template size_t two_pass_workspace_bytes<BFloat16>(const Shape&);

}  // namespace iabn::kernels::cuda
