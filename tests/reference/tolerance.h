#pragma once

// Every tolerance of the tests, with where it comes from. Nothing here was tuned to make a test pass.
//
// u   unit roundoff of the storage type: 2^-53, 2^-24, 2^-11, 2^-8 for float64, float32, float16, bfloat16
// a   unit roundoff of the accumulation type: 2^-53 for float64, 2^-24 for all others
// g   growth of a sum of m terms: the roundings of a chain of n additions walk randomly to about sqrt(n)*a times the
//     sum of magnitudes; 4 standard deviations and a few operations per term give g = 16 + 4*sqrt(m)
// e   [C] rms error of the recovered x_hat: z is stored with relative error u, the inverse divides it by act'(y), and
//     x_hat = (y - beta)/gamma, so e = u*rms(z/act'(y))/|gamma|. For leaky ReLU and identity z/act'(y) = y.
// h   [C] error of x_hat from forward itself: x and mean are known to a*g of their magnitudes and rstd scales their
//     difference, so a channel whose values lie close together compared with their size is ill-conditioned

#include <cmath>

#include <torch/types.h>

#include "tests/reference/oracle.h"

namespace iabn::test {

inline double unit_roundoff(torch::Dtype dtype) {
  switch (dtype) {
    case torch::kDouble:
      return 0x1p-53;
    case torch::kFloat:
      return 0x1p-24;
    case torch::kHalf:
      return 0x1p-11;
    default:
      return 0x1p-8;
  }
}

/// Smallest positive number of the storage type with full precision; below it the error is absolute.
inline double smallest_normal(torch::Dtype dtype) {
  switch (dtype) {
    case torch::kDouble:
      return 0x1p-1022;
    case torch::kHalf:
      return 0x1p-14;
    default:
      return 0x1p-126;
  }
}

struct Tolerance {
  double u, a, g, m, tiny;
  torch::Tensor magnitude;  // [C]: rms of x

  Tolerance(const torch::Tensor& x)  // NOLINT: implicit
      : u(unit_roundoff(x.scalar_type())),
        a(x.scalar_type() == torch::kDouble ? 0x1p-53 : 0x1p-24),
        g(16 + 4 * std::sqrt(static_cast<double>(x.numel()) / static_cast<double>(x.size(1)))),
        m(static_cast<double>(x.numel()) / static_cast<double>(x.size(1))),
        tiny(smallest_normal(x.scalar_type()) * u),
        magnitude((channel_sum(x.detach().to(torch::kCPU, torch::kDouble).square()) / m).sqrt()) {}

  /// Elementwise bound on z: one rounding to storage, plus y's own error: x, mean and beta are known to a relative a*g
  /// of their magnitudes, and gamma*rstd scales x.
  torch::Tensor z(const torch::Tensor& x, const OracleResult& r, const torch::Tensor& gamma, const torch::Tensor& bias,
                  double eps) const {
    const auto dims = x.dim();
    const auto scale = per_channel(gamma.abs() / (r.var + eps).sqrt(), dims);
    const auto magnitude = (x.abs() + per_channel(r.mean.abs(), dims)) * scale + per_channel(bias.abs(), dims);
    return r.z.abs() * u + magnitude * (a * g) + tiny;
  }

  torch::Tensor h(const OracleResult& r, double eps = 1e-5) const {
    return (magnitude + r.mean.abs()) / (r.var + eps).sqrt() * (a * g);
  }

  torch::Tensor e(const OracleResult& r, const torch::Tensor& d_z, const torch::Tensor& gamma) const {
    const auto derivative = r.d_y / d_z;  // 0/0 where nothing comes in: such elements do not matter
    const auto error = torch::where((derivative == 0) | derivative.isnan(), torch::zeros_like(d_z), r.z / derivative);
    return u * (channel_sum(error.square()) / m).sqrt() / gamma.abs() + h(r);
  }

  /// [C], on the norm of d_x's error per channel: d_x = gamma*rstd*(d_y - d_beta/m - x_hat*d_gamma/m). d_y has relative
  /// error u (its derivative is read from the stored z: for ELU u*|z| beside z + alpha), x_hat enters with error e in
  /// itself, in d_gamma and in mu, |d_gamma| <= ||d_y||*sqrt(m); one more rounding stores d_x.
  torch::Tensor d_x(const OracleResult& r, const torch::Tensor& d_z, const torch::Tensor& gamma, double eps) const {
    const auto norm = channel_sum(r.d_y.square()).sqrt();
    const auto scale = gamma.abs() / (r.var + eps).sqrt();
    return scale * norm * (3 * e(r, d_z, gamma) + u + a * g) + scale * u * channel_sum((d_z * r.z).square()).sqrt() +
           u * channel_sum(r.d_x.square()).sqrt() + tiny * std::sqrt(m);
  }

  /// [C]: d_gamma = sum d_y*x_hat; by Cauchy-Schwarz the error of x_hat costs at most ||d_y||*e*sqrt(m); mu and s of
  /// the re-standardised form are sums over the same x_hat and cost once more.
  torch::Tensor d_weight(const OracleResult& r, const torch::Tensor& d_z, const torch::Tensor& gamma) const {
    const auto norm = channel_sum(r.d_y.square()).sqrt() + u * channel_sum((d_z * r.z).square()).sqrt();
    return norm * std::sqrt(m) * (2 * e(r, d_z, gamma) + a * g);
  }

  /// [C]: d_beta = sum d_y; act'(y) is as uncertain as the stored z, and as y itself where it bends (ELU).
  torch::Tensor d_bias(const OracleResult& r, const torch::Tensor& d_z, const torch::Tensor& gamma) const {
    return channel_sum(r.d_y.abs()) * (a * g) + u * channel_sum((d_z * r.z).abs()) +
           h(r) * gamma.abs() * channel_sum(d_z.abs());
  }

  /// [C]: mean and running mean; var.
  torch::Tensor mean(const torch::Tensor& x) const { return channel_sum(x.abs()) / m * (a * g); }
  torch::Tensor var(const torch::Tensor& x, const OracleResult& r) const {
    return r.var * (a * g) + (channel_sum(x.abs()) / m * a).square() * g;
  }
};

}  // namespace iabn::test
