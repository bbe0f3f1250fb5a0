#pragma once

// Which activation functor a kernel is compiled for.
//
// Two instead of four keep the compile time down: the identity is leaky ReLU with slope 1 to the bit, and ELU and ReLU,
// the rare ones, share a functor.

#include "iabn/kernels/dispatch.h"

namespace iabn::kernels::cuda {

/// exp(v) - 1 for v <= 0, and log(1 + v) for -1 < v <= 0. Without branches: a branch per element would keep the
/// compiler from overlapping elements, and a memory-bound kernel from memory. kQuick: relative error below 2^-17, for
/// 16-bit results; near 0, where the hardware's functions lose digits, a polynomial.
template <class A, bool kQuick>
struct Exponential {
  static __device__ __forceinline__ A expm1(A v) { return ::expm1(v); }
  static __device__ __forceinline__ A log1p(A v) { return ::log1p(v); }
};
template <>
struct Exponential<float, true> {
  static constexpr float kNearZero = -0.0625f;

  static __device__ __forceinline__ float expm1(float v) {
    float power;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(v * 1.44269504f));
    const float series = v + v * v * (1.f / 2 + v * (1.f / 6 + v * (1.f / 24)));
    return v > kNearZero ? series : power - 1.f;
  }
  static __device__ __forceinline__ float log1p(float v) {
    float logarithm;
    asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(logarithm) : "f"(1.f + v));
    const float series = v - v * v * (1.f / 2 - v * (1.f / 3 - v * (1.f / 4 - v * (1.f / 5))));
    return v > kNearZero ? series : logarithm * 0.693147181f;
  }
};

/// Both, as ELU<A> and ReLU<A> define them; ReLU is ELU with alpha = 0, but for a NaN's derivative. Zeros have no sign
/// here, and ReLU's inverse is 0 for every z <= 0, where nobody asks for it.
template <class A, bool kQuick>
struct ELUOrReLU {
  using Function = Exponential<A, kQuick>;

  A alpha;
  A inverse_alpha;
  A inverse_floor;
  bool relu;

  explicit ELUOrReLU(const ELU<A>& elu)
      : alpha(elu.alpha), inverse_alpha(elu.inverse_alpha), inverse_floor(elu.inverse_floor), relu(false) {}
  explicit ELUOrReLU(const ReLU<A>&) : alpha(0), inverse_alpha(0), inverse_floor(0), relu(true) {}

  __device__ __forceinline__ A forward(A y) const {
    const A below = alpha * Function::expm1(y > A(0) ? A(0) : y) + A(0);  // ReLU: 0, not -0
    return y > A(0) ? y : below;
  }
  __device__ __forceinline__ A inverse(A z) const {
    const A ratio = z > A(0) ? A(0) : z * inverse_alpha;
    A y = Function::log1p(ratio);
    y = ratio <= A(-1) || y < inverse_floor ? inverse_floor : y;
    return z > A(0) ? z : y;
  }
  __device__ __forceinline__ A derivative(A z) const {
    const A d = z + alpha;
    const A below = d < A(0) ? A(0) : d;
    return z > A(0) || (relu && z != z) ? A(1) : below;
  }
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
    } else {
      f(ELUOrReLU<A, sizeof(T) == 2>(act));
    }
  });
}

}  // namespace iabn::kernels::cuda
