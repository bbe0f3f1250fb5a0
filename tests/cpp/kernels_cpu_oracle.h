#pragma once

// The CPU kernels against plain BatchNorm + activation in float64, written here from the textbook: forward from x, and
// backward from x too (the kernels only see z), on every instruction set that this machine has.
//
// Note [Tolerances]. u is the unit roundoff of the storage type (half its epsilon), a that of the accumulation type.
// Forward: z = act(gamma*(x - mean)*rstd + beta) is stored once (u*|z|); in front of that some kOperations roundings of
// the accumulation type act on terms of size |gamma|*(|x_hat| + |mean|*rstd) + |beta|, and the mean itself is off by
// kGrowth*a spreads from the additions behind it.
// Backward starts from z rounded to the storage type, so y carries an error e = u*|z|/act'(y) per element; `Bound`
// carries e through the sums and the formula of d_x to first order, plus kGrowth*a for what sums of up to 2048 terms
// per lane accumulate (a random walk: sqrt(2048) = 45; sqrt(8192) = 90 where a vector has one lane). Everything is
// doubled for the second-order terms.

#include <gtest/gtest.h>
#include <array>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <thread>
#include <vector>
#include "iabn/kernels/cpu/instruction_sets.h"
#include "iabn/kernels/cpu/kernels.h"

namespace iabn::kernels::cpu::test {

constexpr double kOperations = 24;
constexpr double kGrowth = 96;

// ---------------------------------------------------------------------------------------------------- helpers

class Threads final : public Executor {
 public:
  explicit Threads(int threads) : threads_(threads) {}
  void run(int64_t tasks, Order order, const std::function<void(int64_t)>& task) const override {
    const auto take = [&](int64_t i) { task(order == Order::kForwards ? i : tasks - 1 - i); };
    if (threads_ == 1) {
      for (int64_t i = 0; i < tasks; ++i) take(i);
      return;
    }
    std::atomic<int64_t> next{0};
    std::vector<std::thread> pool;
    for (int t = 0; t < threads_; ++t) {
      pool.emplace_back([&] {
        for (int64_t i = next++; i < tasks; i = next++) take(i);
      });
    }
    for (auto& thread : pool) thread.join();
  }

 private:
  int threads_;
};

/// Uniform numbers of mean 0 and variance 1, the same on every platform.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed * 2654435761u + 12345) {}
  double next() {
    state_ = state_ * 6364136223846793005u + 1442695040888963407u;
    return (double(state_ >> 11) * 0x1p-53 - 0.5) * std::sqrt(12.0);
  }

 private:
  uint64_t state_;
};

template <class T>
constexpr double unit_roundoff() {
  if constexpr (std::is_same_v<T, double>) return 0x1p-53;
  if constexpr (std::is_same_v<T, float>) return 0x1p-24;
  if constexpr (std::is_same_v<T, Half>) return 0x1p-11;
  if constexpr (std::is_same_v<T, BFloat16>) return 0x1p-8;
}

/// Half the smallest subnormal: what rounding costs near zero.
template <class T>
constexpr double smallest_step() {
  return std::is_same_v<T, Half> ? 0x1p-25 : 0x1p-134;
}

template <class T>
T rounded(double value) {
  if constexpr (std::is_same_v<T, double>) {
    return value;
  } else {
    return T(float(value));
  }
}

template <class T>
double wide(T value) {
  if constexpr (std::is_same_v<T, double>) {
    return value;
  } else {
    return double(float(value));
  }
}

/// A tensor in exactly the memory it needs, `offset` elements off alignment, between guards that must survive.
template <class T>
class Buffer {
 public:
  static constexpr int64_t kGuard = 40;
  Buffer(int64_t count, int64_t offset) : count_(count), front_(kGuard + offset) {
    values_.assign(size_t(front_ + count + kGuard), T(rounded<T>(77)));
  }
  T* data() { return values_.data() + front_; }
  const T* data() const { return values_.data() + front_; }
  int64_t size() const { return count_; }
  bool guards_intact() const {
    for (int64_t i = 0; i < int64_t(values_.size()); ++i) {
      if ((i < front_ || i >= front_ + count_) && wide(values_[size_t(i)]) != 77) return false;
    }
    return true;
  }
  bool same_bits(const Buffer& other) const {
    return std::memcmp(data(), other.data(), size_t(count_) * sizeof(T)) == 0;
  }

 private:
  int64_t count_, front_;
  std::vector<T> values_;
};

inline int64_t index(const Shape& shape, int64_t n, int64_t c, int64_t s) {
  return shape.layout == Layout::kContiguous ? (n * shape.c + c) * shape.s + s : (n * shape.s + s) * shape.c + c;
}

/// Calls f(position in memory) for the elements of a channel.
template <class F>
void each_in_channel(const Shape& shape, int64_t c, F&& f) {
  for (int64_t n = 0; n < shape.n; ++n) {
    for (int64_t s = 0; s < shape.s; ++s) f(size_t(index(shape, n, c, s)));
  }
}

// ---------------------------------------------------------------------------------------------------- oracle

inline double act_forward(const ActivationSpec& spec, double y) {
  switch (spec.kind) {
    case Activation::kIdentity:
      return y;
    case Activation::kLeakyReLU:
      return y >= 0 ? y : spec.param * y;
    case Activation::kELU:
      return y > 0 ? y : spec.param * std::expm1(y);
    case Activation::kReLU:
      return y > 0 ? y : 0;
  }
  return 0;
}

inline double act_slope(const ActivationSpec& spec, double y) {
  switch (spec.kind) {
    case Activation::kIdentity:
      return 1;
    case Activation::kLeakyReLU:
      return y >= 0 ? 1 : spec.param;
    case Activation::kELU:
      return y > 0 ? 1 : spec.param * std::exp(y);
    case Activation::kReLU:
      return y > 0 ? 1 : 0;
  }
  return 0;
}

struct Oracle {
  std::vector<double> mean, var, gamma, beta, sign;  // [C]
  std::vector<double> x_hat, y, z;                   // [numel]
  std::vector<double> d_y, d_x;
  std::vector<double> d_gamma, d_beta;
  std::vector<double> var_bound;
  std::vector<double> z_bound, d_x_bound;
  std::vector<double> d_gamma_bound, d_beta_bound;
};

template <class T>
struct Problem {
  using A = accumulate_t<T>;
  Shape shape;
  ActivationSpec activation;
  GammaMode mode = GammaMode::kSigned;
  A eps = A(1e-5);
  bool has_affine = true;
  std::vector<A> weight, bias;
  Buffer<T> x, d_z;
  double scale = 1, shift = 0;

  Problem(const Shape& shape_, const ActivationSpec& activation_, uint64_t seed, double scale_ = 1, double shift_ = 0)
      : shape(shape_),
        activation(activation_),
        x(shape.numel(), int64_t(seed % 2)),
        d_z(shape.numel(), int64_t(seed / 2 % 2)),
        scale(scale_),
        shift(shift_) {
    Random random(seed);
    for (int64_t c = 0; c < shape.c; ++c) {
      weight.push_back(A((c % 3 == 2 ? -1 : 1) * (0.75 + 0.25 * random.next())));
      bias.push_back(A(0.25 * random.next()));
    }
    for (int64_t i = 0; i < shape.numel(); ++i) {
      x.data()[i] = rounded<T>(scale * random.next() + shift);
      d_z.data()[i] = rounded<T>(0.3 + random.next());
    }
  }

  Affine<A> affine() const {
    if (!has_affine) return {nullptr, nullptr, mode, eps};
    return {weight.data(), bias.data(), mode, eps};
  }
};

template <class T>
Oracle forward_oracle(const Problem<T>& p, const double* mean = nullptr, const double* var = nullptr) {
  const Shape& shape = p.shape;
  Oracle o;
  const size_t numel = size_t(shape.numel());
  for (auto* v : {&o.x_hat, &o.y, &o.z, &o.z_bound}) v->resize(numel);
  const double u = unit_roundoff<T>(), a = unit_roundoff<accumulate_t<T>>();
  const double m = double(shape.count());
  for (int64_t c = 0; c < shape.c; ++c) {
    // Differences from one element, in long double: the doubles under test are summed better than by a plain loop.
    const double origin = shape.count() > 0 ? wide(p.x.data()[index(shape, 0, c, 0)]) : 0;
    const auto offset = [&](size_t i) { return (long double)(wide(p.x.data()[i])) - origin; };
    long double sum = 0, squares = 0;
    each_in_channel(shape, c, [&](size_t i) { sum += offset(i); });
    const long double mean_offset = mean ? mean[c] - (long double)(origin) : sum / m;
    each_in_channel(shape, c, [&](size_t i) { squares += (offset(i) - mean_offset) * (offset(i) - mean_offset); });
    const double mu = double(origin + mean_offset);
    const double variance = var ? var[c] : double(squares / m);
    const double w = p.has_affine ? double(p.weight[size_t(c)]) : 1;
    const double gamma = p.mode == GammaMode::kLegacy ? std::abs(w) + double(p.eps) : w;
    const double beta = p.has_affine ? double(p.bias[size_t(c)]) : 0;
    const double rstd = 1 / std::sqrt(variance + double(p.eps));
    o.mean.push_back(mu);
    o.var.push_back(variance);
    // The means of pieces (at least 64 elements, so within half a spread of the whole) are rounded before they merge.
    const double rounded_mean = a * std::abs(mu);
    o.var_bound.push_back(kGrowth * a * variance + rounded_mean * std::sqrt(variance) / 2 +
                          rounded_mean * rounded_mean);
    o.gamma.push_back(gamma);
    o.beta.push_back(beta);
    o.sign.push_back(p.mode == GammaMode::kLegacy && w < 0 ? -1 : 1);
    each_in_channel(shape, c, [&](size_t i) {
      o.x_hat[i] = double(offset(i) - mean_offset) * rstd;
      o.y[i] = gamma * o.x_hat[i] + beta;
      o.z[i] = act_forward(p.activation, o.y[i]);
      const double terms = std::abs(gamma) * (std::abs(o.x_hat[i]) + std::abs(mu) * rstd) + std::abs(beta);
      o.z_bound[i] = u * std::abs(o.z[i]) + a * (kOperations * terms + kGrowth * std::abs(gamma)) + smallest_step<T>();
    });
  }
  return o;
}

/// Textbook gradients from x, and the bounds of Note [Tolerances].
template <class T>
void backward_oracle(const Problem<T>& p, Oracle& o, bool frozen = false) {
  const Shape& shape = p.shape;
  const double u = unit_roundoff<T>(), a = unit_roundoff<accumulate_t<T>>();
  const double m = double(shape.count());
  for (auto* v : {&o.d_y, &o.d_x, &o.d_x_bound}) v->resize(size_t(shape.numel()));
  for (int64_t c = 0; c < shape.c; ++c) {
    const double gamma = o.gamma[size_t(c)], rstd = 1 / std::sqrt(o.var[size_t(c)] + double(p.eps));
    long double d_beta_sum = 0, d_gamma_sum = 0;
    double sum_d_y = 0, sum_product = 0;
    double d_beta_error = 0, d_gamma_error = 0, error_sum = 0, error_squares = 0;
    const auto slope = [&](size_t i) { return act_slope(p.activation, o.y[i]); };
    const auto x_hat_error = [&](size_t i) {
      const double s = slope(i);
      const double y_error = s > 0 ? (u * std::abs(o.z[i]) + smallest_step<T>()) / s + 8 * a * std::abs(o.y[i]) : 0;
      return (y_error + 4 * a * std::abs(o.beta[size_t(c)])) / std::abs(gamma);
    };
    const auto d_y_error = [&](size_t i) {
      const bool elu = p.activation.kind == Activation::kELU && o.y[i] < 0;
      const double d_z = std::abs(wide(p.d_z.data()[i]));
      // A z that rounds to zero has lost its side of ELU's kink.
      if (p.activation.kind == Activation::kELU && std::abs(o.z[i]) <= smallest_step<T>()) return d_z;
      return d_z * (elu ? u * std::abs(o.z[i]) + smallest_step<T>() : 0) + 4 * a * d_z;
    };
    each_in_channel(shape, c, [&](size_t i) {
      o.d_y[i] = wide(p.d_z.data()[i]) * slope(i);
      d_beta_sum += o.d_y[i];
      d_gamma_sum += o.d_y[i] * o.x_hat[i];
      sum_d_y += std::abs(o.d_y[i]);
      sum_product += std::abs(o.d_y[i] * o.x_hat[i]);
      d_beta_error += d_y_error(i);
      d_gamma_error += std::abs(o.d_y[i]) * x_hat_error(i) + d_y_error(i) * std::abs(o.x_hat[i]);
      error_sum += x_hat_error(i);
      error_squares += std::pow(x_hat_error(i), 2);
    });
    const double d_beta = double(d_beta_sum), d_gamma = double(d_gamma_sum);
    d_beta_error += kGrowth * a * sum_d_y;
    // The recovered mean is off by the mean of the errors, the recovered spread relatively by their rms.
    const double scale_error = std::sqrt(error_squares / m) + kGrowth * a;
    d_gamma_error += kGrowth * a * sum_product + (frozen ? 0 : std::abs(d_beta) * (error_sum / m + kGrowth * a)) +
                     scale_error * std::abs(d_gamma);
    o.d_beta.push_back(d_beta);
    o.d_gamma.push_back(d_gamma);
    o.d_beta_bound.push_back(2 * d_beta_error);
    o.d_gamma_bound.push_back(2 * d_gamma_error);
    each_in_channel(shape, c, [&](size_t i) {
      const double x_hat = std::abs(o.x_hat[i]);
      double inner = o.d_y[i], error = d_y_error(i);
      if (!frozen) {
        inner -= d_beta / m + o.x_hat[i] * d_gamma / m;
        error += d_beta_error / m + (x_hat_error(i) + error_sum / m + x_hat * scale_error) * std::abs(d_gamma) / m +
                 x_hat * d_gamma_error / m +
                 kOperations * a * (std::abs(d_beta) / m + (x_hat + 1) * std::abs(d_gamma) / m);
      }
      o.d_x[i] = gamma * rstd * inner;
      const double rstd_error = frozen ? 0 : o.var_bound[size_t(c)] / (o.var[size_t(c)] + double(p.eps));
      o.d_x_bound[i] = rstd_error * std::abs(o.d_x[i]) +
                       2 * (std::abs(gamma) * rstd * error + 8 * a * std::abs(gamma * rstd * o.d_y[i])) +
                       u * std::abs(o.d_x[i]) + smallest_step<T>();
    });
  }
}

template <class V>
::testing::AssertionResult near(const char* what, const V* got, const std::vector<double>& want,
                                const std::vector<double>& bound) {
  for (size_t i = 0; i < want.size(); ++i) {
    const double value = wide(got[i]);
    if (!(std::abs(value - want[i]) <= bound[i])) {
      return ::testing::AssertionFailure() << what << "[" << i << "]: got " << value << ", want " << want[i]
                                           << ", off by " << std::abs(value - want[i]) << ", allowed " << bound[i];
    }
  }
  return ::testing::AssertionSuccess();
}

inline std::vector<double> times(const std::vector<double>& a, const std::vector<double>& b) {
  std::vector<double> product(a);
  for (size_t i = 0; i < a.size(); ++i) product[i] *= b[i];
  return product;
}

template <class T>
Buffer<T> stored(const std::vector<double>& values, int64_t offset) {
  Buffer<T> buffer(int64_t(values.size()), offset);
  for (size_t i = 0; i < values.size(); ++i) buffer.data()[i] = rounded<T>(values[i]);
  return buffer;
}

constexpr ActivationSpec kIdentitySpec{Activation::kIdentity, 0};
constexpr ActivationSpec kLeakySpec{Activation::kLeakyReLU, 0.01};
constexpr ActivationSpec kEluSpec{Activation::kELU, 0.7};
constexpr ActivationSpec kReluSpec{Activation::kReLU, 0};
constexpr ActivationSpec kInvertible[] = {kLeakySpec, kIdentitySpec, kEluSpec};

// ---------------------------------------------------------------------------------------------------- fixture

}  // namespace iabn::kernels::cpu::test
