// The operators on the CPU: the kernels of iabn/kernels/cpu on LibTorch's thread pool.

#include <torch/csrc/stable/ops.h>

#include "iabn/kernels/cpu/kernels.h"
#include "iabn/ops/front.h"

namespace iabn::ops {

namespace {

class TorchExecutor final : public kernels::cpu::Executor {
 public:
  void run(int64_t tasks, kernels::cpu::Order order, const std::function<void(int64_t)>& task) const override {
    torch::stable::parallel_for(0, tasks, /*grain_size=*/1, [&](int64_t begin, int64_t end) {
      const bool forwards = order == kernels::cpu::Order::kForwards;
      for (int64_t i = begin; i < end; ++i) task(forwards ? i : end - 1 - (i - begin));
    });
  }
};

struct Cpu {
  struct Context {
    explicit Context(const Tensor&) {}
    TorchExecutor executor;
  };

  template <class T, class... Args>
  static void forward(Context& context, T* x, const Args&... args) {
    kernels::cpu::forward<T>(x, args..., context.executor);
  }
  template <class T, class A>
  static void statistics(Context& context, const T* x, const kernels::Shape& shape, A* packed) {
    kernels::cpu::statistics<T>(x, shape, packed, context.executor);
  }
  template <class T, class... Args>
  static void apply(Context& context, T* x, const Args&... args) {
    kernels::cpu::apply<T>(x, args..., context.executor);
  }
  template <class T>
  using Sum = kernels::accumulate_t<T>;
  template <class T>
  static void backward(Context& context, const T* z, const T* d_z, T* d_x, const kernels::Shape& shape,
                       const Sum<T>* var, const kernels::Affine<Sum<T>>& affine, const ActivationSpec& activation,
                       Sum<T>* d_weight, Sum<T>* d_bias) {
    kernels::cpu::backward<T>(z, d_z, d_x, shape, var, affine, activation, d_weight, d_bias, context.executor);
  }
  template <class T>
  static void backward_frozen(Context& context, const T* z, const T* d_z, T* d_x, const kernels::Shape& shape,
                              const Sum<T>* var, const kernels::Affine<Sum<T>>& affine,
                              const ActivationSpec& activation, Sum<T>* d_weight, Sum<T>* d_bias) {
    kernels::cpu::backward_frozen<T>(z, d_z, d_x, shape, var, affine, activation, d_weight, d_bias, context.executor);
  }
  template <class T, class... Args>
  static void backward_reduce(Context& context, const T* z, const Args&... args) {
    kernels::cpu::backward_reduce<T>(z, args..., context.executor);
  }
  template <class T, class... Args>
  static void backward_apply(Context& context, const T* z, const Args&... args) {
    kernels::cpu::backward_apply<T>(z, args..., context.executor);
  }
  template <class A, class... Args>
  static void backward_parameters(Context&, const A* local_sums, const Args&... args) {
    kernels::cpu::backward_parameters<A>(local_sums, args...);
  }
  template <class A>
  static void merge(Context&, const kernels::Gathered<A>& gathered, const kernels::MergeResult<A>& result) {
    kernels::cpu::merge(gathered, result);
  }
};

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(iabn, CPU, m) { Front<Cpu>::register_ops(m); }

}  // namespace iabn::ops
