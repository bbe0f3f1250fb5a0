#pragma once

// Each activation of the layer, once: forward, inverse, and derivative as a function of the *output*.
//
// With y the normalised and scaled value and z = forward(y):
//   inverse(z)    = y                         used by backward to recover what forward overwrote
//   derivative(z) = d forward / d y at y      so that d_y = d_z * derivative(z)
// Everything is usable on the host and in CUDA kernels. `A` is the accumulation type: float, or double for float64
// tensors. Leaky ReLU decides by the sign *bit* of z: z = -0.0 (an underflowed negative) still counts as negative.

#include <cmath>
#include <cstdint>
#include <limits>

#if defined(__CUDACC__)
#define IABN_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define IABN_HOST_DEVICE inline
#endif

namespace iabn {

/// The values are part of the operator schemas (argument `activation`): append, never renumber.
enum class Activation : int64_t { kIdentity = 0, kLeakyReLU = 1, kELU = 2, kReLU = 3 };

/// An activation and its parameter: slope for leaky ReLU, alpha for ELU, unused otherwise.
struct ActivationSpec {
  Activation kind = Activation::kLeakyReLU;
  double param = 0.01;
};

template <class A>
struct Identity {
  IABN_HOST_DEVICE A forward(A y) const { return y; }
  IABN_HOST_DEVICE A inverse(A z) const { return z; }
  IABN_HOST_DEVICE A derivative(A) const { return A(1); }
};

template <class A>
struct LeakyReLU {
  A slope;
  A inverse_slope;

  explicit LeakyReLU(double slope_) : slope(A(slope_)), inverse_slope(A(1.0 / slope_)) {}

  static IABN_HOST_DEVICE bool negative(A z) {
#if defined(__CUDA_ARCH__)
    return signbit(z);
#else
    return std::signbit(z);
#endif
  }
  IABN_HOST_DEVICE A forward(A y) const { return negative(y) ? y * slope : y; }
  IABN_HOST_DEVICE A inverse(A z) const { return negative(z) ? z * inverse_slope : z; }
  IABN_HOST_DEVICE A derivative(A z) const { return negative(z) ? slope : A(1); }
};

/// z = y for y > 0, alpha * (exp(y) - 1) otherwise; alpha > 0.
/// Where z has been rounded to -alpha its inverse would be -infinity. It is clamped to the end of the rounding
/// interval, log(epsilon/4) for a storage type whose machine epsilon is `storage_epsilon`.
template <class A>
struct ELU {
  A alpha;
  A inverse_alpha;
  A inverse_floor;

  ELU(double alpha_, double storage_epsilon)
      : alpha(A(alpha_)), inverse_alpha(A(1.0 / alpha_)), inverse_floor(A(std::log(storage_epsilon / 4))) {}

  IABN_HOST_DEVICE A forward(A y) const { return y > A(0) ? y : alpha * expm1_(y); }
  IABN_HOST_DEVICE A inverse(A z) const {
    if (z > A(0)) return z;
    const A ratio = z * inverse_alpha;
    if (ratio <= A(-1)) return inverse_floor;  // z was rounded to -alpha or past it, where log1p gives NaN
    const A y = log1p_(ratio);
    return y < inverse_floor ? inverse_floor : y;  // a NaN stays a NaN
  }
  IABN_HOST_DEVICE A derivative(A z) const {
    if (z > A(0)) return A(1);
    const A d = z + alpha;
    return d < A(0) ? A(0) : d;
  }

 private:
  static IABN_HOST_DEVICE A expm1_(A v) {
#if defined(__CUDA_ARCH__)
    return ::expm1(v);
#else
    return std::expm1(v);
#endif
  }
  static IABN_HOST_DEVICE A log1p_(A v) {
#if defined(__CUDA_ARCH__)
    return ::log1p(v);
#else
    return std::log1p(v);
#endif
  }
};

/// Not invertible: legal only where backward needs no inverse (frozen statistics, evaluation).
template <class A>
struct ReLU {
  IABN_HOST_DEVICE A forward(A y) const { return y < A(0) ? A(0) : y; }  // a NaN stays a NaN
  IABN_HOST_DEVICE A inverse(A z) const { return z; }                    // right where derivative(z) != 0
  IABN_HOST_DEVICE A derivative(A z) const { return z <= A(0) ? A(0) : A(1); }
};

}  // namespace iabn
