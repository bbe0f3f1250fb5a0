#pragma once

// CPU kernels. Formulas, names and layouts: iabn/kernels/kernels.h. Instantiated for double, float, Half and BFloat16.

#include <cstdint>
#include <functional>

#include "iabn/kernels/kernels.h"

namespace iabn::kernels::cpu {

/// In which order a thread takes its tasks. Backwards, it meets first what it had last in the pass before, which its
/// cache still holds; a hint, results don't depend on it.
enum class Order { kForwards, kBackwards };

/// Runs tasks 0..n-1, each once, on any number of threads, and returns when all are done. Supplied by the caller, so
/// that the kernels share the thread pool of the program around them.
class Executor {
 public:
  virtual ~Executor() = default;
  virtual void run(int64_t tasks, Order order, const std::function<void(int64_t)>& task) const = 0;
};

/// z over x; mean [C] and biased var [C] of this batch; updates `running`.
template <class T>
void forward(T* x, const Shape& shape, const Affine<accumulate_t<T>>& affine, const ActivationSpec& activation,
             const Running<accumulate_t<T>>& running, accumulate_t<T>* mean, accumulate_t<T>* var,
             const Executor& executor);

/// packed [3, C]: count, mean, M2.
template <class T>
void statistics(const T* x, const Shape& shape, accumulate_t<T>* packed, const Executor& executor);

/// z over x from given statistics (batch, merged or running).
template <class T>
void apply(T* x, const Shape& shape, const accumulate_t<T>* mean, const accumulate_t<T>* var,
           const Affine<accumulate_t<T>>& affine, const ActivationSpec& activation, const Executor& executor);

/// Batch statistics. d_x may be null (not wanted) or equal d_z (overwritten); d_weight and d_bias [C] may be null.
template <class T>
void backward(const T* z, const T* d_z, T* d_x, const Shape& shape, const accumulate_t<T>* var,
              const Affine<accumulate_t<T>>& affine, const ActivationSpec& activation, accumulate_t<T>* d_weight,
              accumulate_t<T>* d_bias, const Executor& executor);

/// Frozen statistics: d_x = gamma*rstd*d_y, d_weight = sum d_y*y'/gamma (0 where gamma is 0). Nulls as in backward.
template <class T>
void backward_frozen(const T* z, const T* d_z, T* d_x, const Shape& shape, const accumulate_t<T>* var,
                     const Affine<accumulate_t<T>>& affine, const ActivationSpec& activation, accumulate_t<T>* d_weight,
                     accumulate_t<T>* d_bias, const Executor& executor);

/// sums [4, C]: A0, A1, B1, B2.
template <class T>
void backward_reduce(const T* z, const T* d_z, const Shape& shape, const Affine<accumulate_t<T>>& affine,
                     const ActivationSpec& activation, accumulate_t<T>* sums, const Executor& executor);

/// d_x from sums over all `count[0]` elements per channel (of every process).
template <class T>
void backward_apply(const T* z, const T* d_z, T* d_x, const Shape& shape, const accumulate_t<T>* sums,
                    const accumulate_t<T>* count, const accumulate_t<T>* var, const Affine<accumulate_t<T>>& affine,
                    const ActivationSpec& activation, const Executor& executor);

/// Gradients of the parameters from this process's sums, with mu and scale from the sums of all processes.
template <class A>
void backward_parameters(const A* local_sums, const A* sums, const A* count, int64_t channels, const Affine<A>& affine,
                         A* d_weight, A* d_bias);

}  // namespace iabn::kernels::cpu
