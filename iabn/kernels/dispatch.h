#pragma once

// From run-time values to template arguments: plain functions over template lambdas, nested at the single call site.

#include <stdexcept>
#include <string>

#include "iabn/activation.h"
#include "iabn/kernels/kernels.h"

namespace iabn::kernels {

/// Machine epsilon of a storage type.
template <class T>
constexpr double storage_epsilon() {
  return std::numeric_limits<T>::epsilon();
}
template <>
constexpr double storage_epsilon<BFloat16>() {
  return 0x1p-7;
}
template <>
constexpr double storage_epsilon<Half>() {
  return 0x1p-10;
}

/// Calls f with the activation functor for tensors of type T.
template <class T, class F>
decltype(auto) with_activation(const ActivationSpec& activation, F&& f) {
  using A = accumulate_t<T>;
  switch (activation.kind) {
    case Activation::kIdentity:
      return f(Identity<A>{});
    case Activation::kLeakyReLU:
      if (A(activation.param) == A(0)) return f(ReLU<A>{});  // the same function, and no division by the slope
      return f(LeakyReLU<A>(activation.param));
    case Activation::kELU:
      return f(ELU<A>(activation.param, storage_epsilon<T>()));
    case Activation::kReLU:
      return f(ReLU<A>{});
  }
  throw std::invalid_argument("activation must be 0 (identity), 1 (leaky_relu), 2 (elu) or 3 (relu), got " +
                              std::to_string(static_cast<int64_t>(activation.kind)));
}

}  // namespace iabn::kernels
