#pragma once

// The contract of the kernels, shared by cpu/kernels.h and cuda/kernels.h.
//
// Names (docs/design/1-maths.md): x input, mean/var (biased) per channel over m = N*S elements,
//   rstd = 1/sqrt(var + eps), x_hat = (x - mean)*rstd, y = gamma*x_hat + beta, z = act(y).
// gamma is `weight` (signed mode) or |weight| + eps (legacy mode); a missing weight is 1, a missing bias 0.
//
// T is the storage type (double, float, Half, BFloat16), A = accumulate_t<T> the type of every per-channel number.
// The four steps, which a synchronised layer runs with a collective in between:
//   statistics        x          -> {count, mean, M2}                      reads 1 tensor
//   apply             x, stats   -> z over x                               reads 1, writes 1
//   backward_reduce   z, d_z     -> sums {A0, A1, B1, B2}                  reads 2
//   backward_apply    z, d_z, sums -> d_x                                  reads 2, writes 1
// and the fused local directions `forward` = statistics + apply + running statistics, `backward` = reduce + apply.
// Sums: y' = act^-1(z) - beta, d_y = d_z*act'(y); A0 = sum d_y, A1 = sum d_y*y', B1 = sum y', B2 = sum y'^2.
// Every function is deterministic: same input, same bits, whatever the number of threads or the device load.
// Arguments have been checked by iabn/ops; nothing here throws for bad values. An empty tensor (n*s == 0) is legal.

#include <cmath>
#include <cstdint>

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include "iabn/activation.h"
#include "iabn/kernels/view.h"

namespace iabn::kernels {

using BFloat16 = c10::BFloat16;
using Half = c10::Half;

template <class T>
struct Accumulate {
  using type = float;
};
template <>
struct Accumulate<double> {
  using type = double;
};
template <class T>
using accumulate_t = typename Accumulate<T>::type;

/// How a layer's `weight` gives gamma; the values are part of the operator schemas.
enum class GammaMode : int64_t { kSigned = 0, kLegacy = 1 };

/// gamma and beta of a layer. Null pointers: no affine parameters.
template <class A>
struct Affine {
  const A* weight = nullptr;  // [C]
  const A* bias = nullptr;    // [C]
  GammaMode mode = GammaMode::kSigned;
  A eps = A(1e-5);  // also the eps of rstd

  IABN_HOST_DEVICE A gamma(int64_t c) const {
    const A w = weight ? weight[c] : A(1);
    if (mode == GammaMode::kSigned) return w;
    return (w < A(0) ? -w : w) + eps;
  }
  IABN_HOST_DEVICE A beta(int64_t c) const { return bias ? bias[c] : A(0); }
  /// d gamma / d weight.
  IABN_HOST_DEVICE A gamma_sign(int64_t c) const {
    return mode == GammaMode::kLegacy && weight && weight[c] < A(0) ? A(-1) : A(1);
  }
};

/// Running statistics that `forward` updates; null pointers: not tracked.
template <class A>
struct Running {
  A* mean = nullptr;           // [C]
  A* var = nullptr;            // [C], unbiased
  int64_t* batches = nullptr;  // [1], incremented; may be null where momentum >= 0
  double momentum = 0.1;       // negative: cumulative average, factor 1/batches after the increment
};

/// Per-channel coefficients of the backward application: d_x = a*d_y + b*y' + c.
template <class A>
struct BackwardCoefficients {
  A a, b, c;
};

/// What the four sums of a channel say about it: mean mu of y', and scale with x_hat = scale*(y' - mu).
/// The re-standardised form (docs/design/1-maths.md): the true x_hat has mean 0 and variance at most 1, so the scale is
/// never above 1/s, s the spread of y'; finite at gamma = 0. It holds for batch statistics only.
template <class A>
struct Recovery {
  A mu;
  A scale;
};

template <class A>
IABN_HOST_DEVICE Recovery<A> recovery(A gamma, A m, A b1, A b2) {
  const A mu = b1 / m;
  const A variance = b2 / m - mu * mu;
  const A spread = variance <= A(0) ? A(0) : A(sqrt(variance));  // a NaN stays a NaN
  const A magnitude = gamma < A(0) ? -gamma : gamma;
  const A limit = magnitude > spread ? magnitude : spread;
  const A scale = limit == A(0) ? A(0) : A(1) / limit;
  return {mu, gamma < A(0) ? -scale : scale};
}

/// Gradient with respect to gamma; times Affine::gamma_sign for the one with respect to weight.
template <class A>
IABN_HOST_DEVICE A gamma_gradient(const Recovery<A>& r, A a0, A a1) {
  return r.scale * (a1 - r.mu * a0);
}

/// d_x = gamma*rstd*(d_y - A0/m - scale*(y' - mu)*d_gamma/m), as one linear form per channel.
template <class A>
IABN_HOST_DEVICE BackwardCoefficients<A> backward_coefficients(const Recovery<A>& r, A gamma, A rstd, A m, A a0,
                                                               A d_gamma) {
  const A a = gamma * rstd;
  const A b = -a * r.scale * d_gamma / m;
  return {a, b, -a * a0 / m - b * r.mu};
}

}  // namespace iabn::kernels
