#pragma once

// Which activation functor a kernel is compiled for.
//
// Two instead of four keep the compile time down at no cost in a memory-bound kernel: the identity is leaky ReLU with
// slope 1 to the bit, and ELU and ReLU, the rare ones, share a functor that branches on a launch-wide flag.

#include "iabn/kernels/dispatch.h"

namespace iabn::kernels::cuda {

template <class A>
struct ELUOrReLU {
  ELU<A> elu;
  bool relu;

  IABN_HOST_DEVICE A forward(A y) const { return relu ? ReLU<A>{}.forward(y) : elu.forward(y); }
  IABN_HOST_DEVICE A inverse(A z) const { return relu ? ReLU<A>{}.inverse(z) : elu.inverse(z); }
  IABN_HOST_DEVICE A derivative(A z) const { return relu ? ReLU<A>{}.derivative(z) : elu.derivative(z); }
};

/// Calls f with the compiled functor.
template <class T, class F>
void with_compiled_activation(const ActivationSpec& activation, F&& f) {
  using A = accumulate_t<T>;
  with_activation<T>(activation, [&](const auto& act) {
    using Act = std::decay_t<decltype(act)>;
    if constexpr (std::is_same_v<Act, Identity<A>>) {
      f(LeakyReLU<A>(1.0));
    } else if constexpr (std::is_same_v<Act, LeakyReLU<A>>) {
      f(act);
    } else if constexpr (std::is_same_v<Act, ELU<A>>) {
      f(ELUOrReLU<A>{act, false});
    } else {
      f(ELUOrReLU<A>{ELU<A>(1.0, storage_epsilon<T>()), true});
    }
  });
}

}  // namespace iabn::kernels::cuda
