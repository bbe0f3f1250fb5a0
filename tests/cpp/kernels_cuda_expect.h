#pragma once

// Cases and expectations shared by the tests of the CUDA kernels.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "iabn/kernels/cuda/slab.h"
#include "kernels_cuda_support.h"

namespace iabn::test {

inline constexpr ActivationSpec kIdentity{Activation::kIdentity, 0};
inline constexpr ActivationSpec kLeaky{Activation::kLeakyReLU, 0.01};
inline constexpr ActivationSpec kElu{Activation::kELU, 1.0};
inline constexpr ActivationSpec kRelu{Activation::kReLU, 0};

/// Growth of float32 rounding in a channel's reduction and the handful of operations after it.
inline constexpr double kGrowth = 64;

template <class T>
double accumulate_roundoff() {
  return unit_roundoff<accumulate_t<T>>();
}

/// Channel counts and run lengths on the boundaries of vectors, warps and tiles.
inline std::vector<Shape> boundary_shapes() {
  const int64_t sizes[][3] = {{2, 1, 3136},  {3, 3, 7},     {5, 7, 15},     {2, 31, 49},  {4, 32, 196},
                              {3, 33, 2},    {2, 64, 196},  {2, 257, 15},   {3, 1024, 7}, {2, 4096, 2},
                              {128, 4, 1},   {64, 3, 1},    {8, 64, 784},   {300, 33, 1}, {1, 8, 2},
                              {2, 12, 3136}, {130, 2, 49},  {2, 5, 100000}, {17, 1, 1},   {40, 2048, 2},
                              {65, 48, 49},  {64, 24, 196}, {70, 8, 7},     {129, 5, 15}, {9, 1000, 1}};
  std::vector<Shape> shapes;
  for (const auto& [n, c, s] : sizes) {
    if (s > 1) shapes.push_back({n, c, s, Layout::kContiguous});
    shapes.push_back({n, c, s, Layout::kChannelsLast});
  }
  return shapes;
}

inline std::string describe(const Shape& s, const ActivationSpec& act) {
  return "[" + std::to_string(s.n) + ", " + std::to_string(s.c) + ", " + std::to_string(s.s) + "] " +
         (s.layout == Layout::kChannelsLast ? "channels last" : "contiguous") + " activation " +
         std::to_string(int(act.kind));
}

/// Largest (|got - want| - tolerance) over a tensor must not be positive; NaN counts as a failure.
template <class V, class F>
void expect_close(const std::vector<V>& got, F&& want_and_tolerance, const char* name) {
  for (size_t i = 0; i < got.size(); ++i) {
    const auto pair = want_and_tolerance(i);
    const double want = double(pair.first), tolerance = double(pair.second);
    if (!(std::abs(double(got[i]) - want) <= tolerance)) {
      FAIL() << name << "[" << i << "]: got " << double(got[i]) << ", want " << want << " +- " << tolerance;
    }
  }
}

template <class T>
void expect_forward(const Problem<T>& p, Run<T>& run) {
  const Oracle oracle(p);
  const double e = kGrowth * accumulate_roundoff<T>();
  std::vector<double> largest(p.shape.c);
  for (size_t i = 0; i < p.x.size(); ++i) {
    largest[p.channel(i)] = std::max(largest[p.channel(i)], std::abs(double(p.x[i])));
  }
  expect_close(
      run.mean.host(), [&](size_t c) { return std::pair(oracle.mean[c], e * largest[c]); }, "mean");
  expect_close(
      run.var.host(),
      [&](size_t c) {
        const double slack = e * largest[c];  // of the mean
        return std::pair(oracle.var[c], e * oracle.var[c] + slack * slack);
      },
      "var");
  expect_close(
      run.x.host(),
      [&](size_t i) {
        const int64_t c = p.channel(i);
        const double scale = std::abs(p.gamma(c)) / std::sqrt(oracle.var[c] + double(p.eps));
        const double subnormal = std::is_same_v<T, kernels::Half> ? 0x1p-25 : 0;
        return std::pair(oracle.z[i],
                         1.001 * unit_roundoff<T>() * std::abs(oracle.z[i]) + subnormal +
                             e * (scale * largest[c] + std::abs(double(p.bias[c])) + std::abs(p.residual(i))));
      },
      "z");
}

/// Channel 0 with a mean far above its deviation, channel 1 constant but for a large first element; at least 3
/// channels.
template <class T>
Problem<T> hard_problem(const Shape& shape) {
  Problem<T> p(shape, kIdentity);
  bool first = true;
  for (size_t i = 0; i < p.x.size(); ++i) {
    const double value = double(p.x[i]);
    if (p.channel(i) == 0) p.x[i] = T(static_cast<float>((sizeof(T) == 2 ? 100 : 1e4) + value));
    if (p.channel(i) == 1) p.x[i] = T(first ? 10000.f : 1.f);
    if (p.channel(i) == 1) first = false;
  }
  return p;
}

template <class T>
void expect_hard_statistics(const Problem<T>& p, Run<T>& run) {
  const Oracle oracle(p);
  const auto mean = run.mean.host();
  const auto var = run.var.host();
  for (int c = 0; c < 3; ++c) {
    EXPECT_NEAR(double(mean[c]), double(oracle.mean[c]),
                double(8 * accumulate_roundoff<T>() * std::abs(oracle.mean[c]) + 1e-6));
    // float32 stores a mean of 1e4 to within a thousandth of the deviation.
    EXPECT_NEAR(double(var[c]), double(oracle.var[c]), 1e-4 * double(oracle.var[c]));
  }
}

/// The sums (plain form), d_x, d_r (residual form) and the gradients against the definitions in kernels.h, evaluated in
/// float64 over the stored z.
template <class T>
void expect_backward(const Problem<T>& p, Run<T>& run) {
  const double e = kGrowth * accumulate_roundoff<T>();
  const double m = double(p.shape.count());
  const double lowest = std::log(2 * unit_roundoff<T>() / 4);
  const auto z = run.x.host();
  const auto var = run.var.host();
  const int64_t channels = p.shape.c;
  Oracle::Sums sums(4 * channels), sizes(4 * channels);
  std::vector<double> y(z.size()), d_y(z.size());
  for (size_t i = 0; i < z.size(); ++i) {
    const int64_t c = p.channel(i);
    const double beta = double(p.bias[c]);
    const double pre = deactivate(p.act, double(z[i]), lowest);
    const double slope = p.act.kind == Activation::kLeakyReLU ? (std::signbit(double(z[i])) ? p.act.param : 1)
                         : p.act.kind == Activation::kELU     ? std::min(1.0, std::max(0.0, double(z[i]) + p.act.param))
                                                              : slope_at(p.act, double(z[i]));
    y[i] = pre - p.residual(i) - beta;
    d_y[i] = double(p.d_z[i]) * slope;
    const double size = std::abs(pre) + std::abs(p.residual(i)) + std::abs(beta);
    const double terms[4] = {d_y[i], d_y[i] * y[i], y[i], y[i] * y[i]};
    const double errors[4] = {std::abs(d_y[i]), std::abs(d_y[i]) * size, size, size * size};
    for (int q = 0; q < 4; ++q) {
      sums[q * channels + c] += terms[q];
      sizes[q * channels + c] += errors[q];
    }
  }
  if (p.r.empty()) {
    expect_close(
        run.sums.host(), [&](size_t i) { return std::pair(sums[i], e * sizes[i]); }, "sums");
  } else {
    const double subnormal = std::is_same_v<T, kernels::Half> ? 0x1p-25 : 0;
    expect_close(
        run.d_r.host(),
        [&](size_t i) { return std::pair(d_y[i], (1.001 * unit_roundoff<T>() + e) * std::abs(d_y[i]) + subnormal); },
        "d_r");
  }

  std::vector<double> d_gamma(channels), scale(channels), slack(channels);
  for (int64_t c = 0; c < channels; ++c) {
    const double mu = sums[2 * channels + c] / m;
    const double spread = std::sqrt(std::max(0.0L, sums[3 * channels + c] / m - mu * mu));
    const double gamma = p.gamma(c);
    scale[c] = std::copysign(1 / std::max(std::abs(gamma), spread), gamma);
    d_gamma[c] = scale[c] * (sums[channels + c] - mu * sums[c]);
    slack[c] = e * std::abs(scale[c]) *
               (sizes[channels + c] + std::abs(mu) * sizes[c] + sizes[2 * channels + c] / m * sizes[c]);
  }
  expect_close(
      run.d_bias.host(), [&](size_t c) { return std::pair(sums[c], e * sizes[c]); }, "d_bias");
  expect_close(
      run.d_weight.host(),
      [&](size_t c) {
        const bool mirrored = p.mode == kernels::GammaMode::kLegacy && p.weight[c] < 0;
        return std::pair(mirrored ? -d_gamma[c] : d_gamma[c], 2 * slack[c]);
      },
      "d_weight");
  expect_close(
      run.d_x.host(),
      [&](size_t i) {
        const int64_t c = p.channel(i);
        const double mu = sums[2 * channels + c] / m;
        const double a = p.gamma(c) / std::sqrt(double(var[c]) + double(p.eps));
        const double d_x = a * (d_y[i] - sums[c] / m - scale[c] * (y[i] - mu) * d_gamma[c] / m);
        const double size = std::abs(d_y[i]) + sizes[c] / m +
                            std::abs(scale[c]) *
                                (std::abs(y[i]) + 2 * std::abs(double(p.bias[c])) + 2 * std::abs(p.residual(i))) *
                                (std::abs(d_gamma[c]) + slack[c] / e) / m;
        const double subnormal = std::is_same_v<T, kernels::Half> ? 0x1p-25 : 0;
        return std::pair(d_x, 1.001 * unit_roundoff<T>() * std::abs(d_x) + subnormal + e * std::abs(a) * size);
      },
      "d_x");
}

/// Norm of the difference over the norm of `want`.
template <class Got, class Want>
double relative_error(const Got& got, const Want& want) {
  long double difference = 0, size = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    difference += (double(got[i]) - want[i]) * (double(got[i]) - want[i]);
    size += want[i] * want[i];
  }
  return double(std::sqrt(difference / size));
}

/// Tests of the slab kernels for storage type T; skipped where the device cannot run them.
template <class T>
class SlabTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!kernels::cuda::slab_plan({4, 64, 64, Layout::kChannelsLast}, sizeof(T), 0, kernels::cuda::Pass::kForward)) {
      GTEST_SKIP() << "the slab kernels need a device of compute capability 9.0";
    }
  }
};

}  // namespace iabn::test
