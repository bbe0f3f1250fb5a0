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

namespace iabn::kernels::cpu {
namespace {

constexpr double kOperations = 24;
constexpr double kGrowth = 96;

// ---------------------------------------------------------------------------------------------------- helpers

class Threads final : public Executor {
 public:
  explicit Threads(int threads) : threads_(threads) {}
  void run(int64_t tasks, const std::function<void(int64_t)>& task) const override {
    if (threads_ == 1) {
      for (int64_t i = 0; i < tasks; ++i) task(i);
      return;
    }
    std::atomic<int64_t> next{0};
    std::vector<std::thread> pool;
    for (int t = 0; t < threads_; ++t) {
      pool.emplace_back([&] {
        for (int64_t i = next++; i < tasks; i = next++) task(i);
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

int64_t index(const Shape& shape, int64_t n, int64_t c, int64_t s) {
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

double act_forward(const ActivationSpec& spec, double y) {
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

double act_slope(const ActivationSpec& spec, double y) {
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

std::vector<double> times(const std::vector<double>& a, const std::vector<double>& b) {
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

/// Every test runs on every instruction set of this machine.
class CpuKernels : public ::testing::TestWithParam<size_t> {
 protected:
  void SetUp() override { use_primitives(&supported_primitives()[GetParam()]); }
  void TearDown() override { use_primitives(nullptr); }
  const Threads serial{1};
};

std::vector<size_t> instruction_sets() {
  std::vector<size_t> indices;
  for (size_t i = 0; i < supported_primitives().size(); ++i) indices.push_back(i);
  return indices;
}
INSTANTIATE_TEST_SUITE_P(Each, CpuKernels, ::testing::ValuesIn(instruction_sets()),
                         [](const auto& info) { return supported_primitives()[info.param].name; });

template <class F>
void for_each_type(F&& f) {
  f(double{});
  f(float{});
  f(Half{});
  f(BFloat16{});
}

/// Shapes on the boundaries of vectors, blocks, folds and chunks.
std::vector<Shape> boundary_shapes() {
  std::vector<Shape> shapes;
  int64_t i = 0;
  for (const int64_t c : {1, 3, 7, 16, 31, 32, 33, 64, 257}) {
    for (const int64_t s : {1, 2, 15, 16, 17, 49, 196, 3136}) {
      for (const Layout layout : {Layout::kContiguous, Layout::kChannelsLast}) {
        const int64_t n = c * s > 30000 ? 1 + i % 2 : std::array<int64_t, 4>{2, 1, 5, 3}[size_t(i % 4)];
        shapes.push_back({n, c, s, layout});
      }
      ++i;
    }
  }
  // Long segments (pieces), many short ones (chunks), units that do not fit a cache, more rows than one chunk.
  for (const Layout layout : {Layout::kContiguous, Layout::kChannelsLast}) {
    shapes.push_back({2, 3, 70001, layout});
    shapes.push_back({700, 17, 50, layout});
    shapes.push_back({2, 1, 40000, layout});
    shapes.push_back({1, 66, 8200, layout});
  }
  return shapes;
}

template <class T>
std::string describe(const Shape& shape, const ActivationSpec& activation) {
  return std::string(typeid(T).name()) + " [" + std::to_string(shape.n) + ", " + std::to_string(shape.c) + ", " +
         std::to_string(shape.s) + (shape.layout == Layout::kContiguous ? "] contiguous" : "] channels last") +
         " activation " + std::to_string(int64_t(activation.kind));
}

template <class T>
struct Result {
  using A = accumulate_t<T>;
  Buffer<T> z, d_x;
  std::vector<A> mean, var, d_weight, d_bias;
};

/// forward from x, backward from the oracle's z (rounded to T), both fused.
template <class T>
Result<T> run_fused(const Problem<T>& p, const Oracle& o, const Executor& executor) {
  using A = accumulate_t<T>;
  const size_t c = size_t(p.shape.c);
  Result<T> r{
      p.x, Buffer<T>(p.shape.numel(), 1), std::vector<A>(c), std::vector<A>(c), std::vector<A>(c), std::vector<A>(c)};
  forward<T>(r.z.data(), p.shape, p.affine(), p.activation, {}, r.mean.data(), r.var.data(), executor);
  const Buffer<T> z = stored<T>(o.z, 1);
  backward<T>(z.data(), p.d_z.data(), r.d_x.data(), p.shape, r.var.data(), p.affine(), p.activation, r.d_weight.data(),
              r.d_bias.data(), executor);
  return r;
}

template <class T>
Oracle oracle_of(const Problem<T>& p) {
  Oracle o = forward_oracle(p);
  backward_oracle(p, o);
  return o;
}

template <class T>
void expect_matches(const Problem<T>& p, const Oracle& o, const Executor& executor) {
  SCOPED_TRACE(describe<T>(p.shape, p.activation) + " " + active_primitives().name);
  const Result<T> r = run_fused(p, o, executor);
  const double a = unit_roundoff<accumulate_t<T>>();
  std::vector<double> mean_bound;
  for (size_t c = 0; c < o.mean.size(); ++c) {
    mean_bound.push_back(a * (2 * std::abs(o.mean[c]) + kGrowth * std::sqrt(o.var[c])));
  }
  EXPECT_TRUE(near("mean", r.mean.data(), o.mean, mean_bound));
  EXPECT_TRUE(near("var", r.var.data(), o.var, o.var_bound));
  EXPECT_TRUE(near("z", r.z.data(), o.z, o.z_bound));
  EXPECT_TRUE(near("d_x", r.d_x.data(), o.d_x, o.d_x_bound));
  EXPECT_TRUE(near("d_weight", r.d_weight.data(), times(o.d_gamma, o.sign), o.d_gamma_bound));
  EXPECT_TRUE(near("d_bias", r.d_bias.data(), o.d_beta, o.d_beta_bound));
  EXPECT_TRUE(r.z.guards_intact());
  EXPECT_TRUE(r.d_x.guards_intact());
}

template <class T>
void expect_matches_oracle(const Problem<T>& p, const Executor& executor) {
  expect_matches(p, oracle_of(p), executor);
}

// ---------------------------------------------------------------------------------------------------- tests

// One test for all instruction sets: they share the oracle, which takes most of the time.
TEST(CpuKernelsOnEveryInstructionSet, ForwardAndBackwardMatchTheOracleOnBoundaryShapes) {
  uint64_t seed = 0;
  for (const Shape& shape : boundary_shapes()) {
    for_each_type([&](auto t) {
      const Problem<decltype(t)> p(shape, kInvertible[seed % 3], seed);
      const Oracle o = oracle_of(p);
      for (const PrimitiveTable& table : supported_primitives()) {
        use_primitives(&table);
        expect_matches(p, o, Threads(1));
      }
      ++seed;
    });
    if (HasFailure()) break;  // one shape's worth of messages is enough
  }
  use_primitives(nullptr);
}

TEST_P(CpuKernels, EveryActivationMatchesOnBothLayouts) {
  for (const Layout layout : {Layout::kContiguous, Layout::kChannelsLast}) {
    for (const ActivationSpec& activation :
         {kIdentitySpec, kLeakySpec, kEluSpec, ActivationSpec{Activation::kLeakyReLU, 2.5},
          ActivationSpec{Activation::kELU, 1.3}}) {
      for_each_type([&](auto t) {
        expect_matches_oracle(Problem<decltype(t)>({4, 37, 30, layout}, activation, 5), serial);
      });
    }
  }
}

TEST_P(CpuKernels, LegacyGammaAndMissingAffineMatch) {
  for (const Layout layout : {Layout::kContiguous, Layout::kChannelsLast}) {
    for_each_type([&](auto t) {
      Problem<decltype(t)> p({3, 19, 40, layout}, kLeakySpec, 8);
      p.mode = GammaMode::kLegacy;
      expect_matches_oracle(p, serial);
      p.has_affine = false;
      p.mode = GammaMode::kSigned;
      expect_matches_oracle(p, serial);
    });
  }
}

TEST_P(CpuKernels, ALargeMeanDoesNotCancel) {
  for (const Layout layout : {Layout::kContiguous, Layout::kChannelsLast}) {
    for (const Shape& shape : {Shape{6, 5, 3000, layout}, Shape{40, 70, 49, layout}}) {
      expect_matches_oracle(Problem<float>(shape, kLeakySpec, 3, 1, 1e4), serial);
      expect_matches_oracle(Problem<double>(shape, kLeakySpec, 3, 1, 1e12), serial);
    }
  }
}

TEST_P(CpuKernels, AConstantChannelWithOneOutlierHasTheRightVariance) {
  for (const Layout layout : {Layout::kContiguous, Layout::kChannelsLast}) {
    for (const int64_t s : {49, 20000}) {
      const Shape shape{2, 3, s, layout};
      for (const double outlier : {1e6, 7.25}) {
        std::vector<float> x(size_t(shape.numel()), 7.0f), packed(9);
        for (int64_t c = 0; c < 3; ++c) x[size_t(index(shape, 0, c, 0))] = float(outlier);
        statistics<float>(x.data(), shape, packed.data(), serial);
        const double m = double(shape.count()), delta = outlier - 7;
        const double m2 = delta * delta * (m - 1) / m;
        for (int64_t c = 0; c < 3; ++c) {
          EXPECT_EQ(packed[size_t(c)], float(m));
          const double mean = 7 + delta / m;
          EXPECT_NEAR(packed[size_t(3 + c)], mean, 16 * 0x1p-24 * (mean + std::sqrt(m2 / m)));
          EXPECT_NEAR(packed[size_t(6 + c)], m2, 1e-5 * m2);
        }
      }
      std::vector<float> x(size_t(shape.numel()), 7.3f), packed(9);
      statistics<float>(x.data(), shape, packed.data(), serial);
      EXPECT_EQ(packed[3], 7.3f);
      EXPECT_EQ(packed[6], 0);
    }
  }
}

TEST_P(CpuKernels, ResultsHaveTheSameBitsForAnyNumberOfThreads) {
  for (const Layout layout : {Layout::kContiguous, Layout::kChannelsLast}) {
    // Units fused in one task, groups of units, pieces of segments, folded rows with a rest, one channel.
    for (const Shape& shape :
         {Shape{8, 64, 100, layout}, Shape{2, 4, 70001, layout}, Shape{7, 3, 5001, layout}, Shape{5, 1, 30000, layout},
          Shape{30, 130, 300, layout}, Shape{64, 300, 1, layout}, Shape{1, 18, 100000, layout}}) {
      for_each_type([&](auto t) {
        using T = decltype(t);
        const Problem<T> p(shape, kLeakySpec, 1);
        SCOPED_TRACE(describe<T>(shape, kLeakySpec));
        Oracle o;
        for (int64_t i = 0; i < shape.numel(); ++i) o.z.push_back(wide(p.x.data()[i]));
        const Result<T> one = run_fused(p, o, serial);
        for (const int threads : {2, 5}) {
          const Result<T> many = run_fused(p, o, Threads(threads));
          EXPECT_TRUE(one.z.same_bits(many.z));
          EXPECT_TRUE(one.d_x.same_bits(many.d_x));
          EXPECT_EQ(one.mean, many.mean);
          EXPECT_EQ(one.var, many.var);
          EXPECT_EQ(one.d_weight, many.d_weight);
          EXPECT_EQ(one.d_bias, many.d_bias);
        }
      });
    }
  }
}

TEST_P(CpuKernels, SeparateStepsGiveTheBitsOfTheFusedOnes) {
  for (const Layout layout : {Layout::kContiguous, Layout::kChannelsLast}) {
    for (const Shape& shape : {Shape{8, 64, 100, layout}, Shape{2, 4, 40001, layout}, Shape{7, 3, 501, layout}}) {
      for_each_type([&](auto t) {
        using T = decltype(t);
        using A = accumulate_t<T>;
        const size_t c = size_t(shape.c);
        const Problem<T> p(shape, kLeakySpec, 1);
        Oracle o = forward_oracle(p);
        const Result<T> fused = run_fused(p, o, serial);

        std::vector<A> packed(3 * c), var(c), sums(4 * c), d_weight(c), d_bias(c);
        statistics<T>(p.x.data(), shape, packed.data(), serial);
        for (size_t i = 0; i < c; ++i) var[i] = packed[2 * c + i] / packed[i];
        Buffer<T> z = p.x;
        apply<T>(z.data(), shape, packed.data() + c, var.data(), p.affine(), p.activation, serial);
        EXPECT_TRUE(z.same_bits(fused.z));

        const Buffer<T> saved = stored<T>(o.z, 1);
        Buffer<T> d_x = p.d_z;  // over d_z
        const A count = A(shape.count());
        backward_reduce<T>(saved.data(), p.d_z.data(), shape, p.affine(), p.activation, sums.data(), serial);
        backward_apply<T>(saved.data(), d_x.data(), d_x.data(), shape, sums.data(), &count, var.data(), p.affine(),
                          p.activation, serial);
        backward_parameters<A>(sums.data(), sums.data(), &count, shape.c, p.affine(), d_weight.data(), d_bias.data());
        EXPECT_TRUE(d_x.same_bits(fused.d_x));
        EXPECT_EQ(d_weight, fused.d_weight);
        EXPECT_EQ(d_bias, fused.d_bias);
      });
    }
  }
}

TEST_P(CpuKernels, UnwantedGradientsAreLeftAlone) {
  for (const Layout layout : {Layout::kContiguous, Layout::kChannelsLast}) {
    const Shape shape{4, 33, 70, layout};
    const Problem<float> p(shape, kLeakySpec, 2);
    Oracle o = forward_oracle(p);
    const Result<float> all = run_fused(p, o, serial);
    const Buffer<float> z = stored<float>(o.z, 1);
    std::vector<float> d_weight(33), d_bias(33);
    backward<float>(z.data(), p.d_z.data(), nullptr, shape, all.var.data(), p.affine(), p.activation, d_weight.data(),
                    d_bias.data(), serial);
    EXPECT_EQ(d_weight, all.d_weight);
    EXPECT_EQ(d_bias, all.d_bias);
    Buffer<float> d_x(shape.numel(), 0);
    backward<float>(z.data(), p.d_z.data(), d_x.data(), shape, all.var.data(), p.affine(), p.activation, nullptr,
                    nullptr, serial);
    EXPECT_TRUE(d_x.same_bits(all.d_x));
    std::vector<float> only(33);
    backward<float>(z.data(), p.d_z.data(), nullptr, shape, all.var.data(), p.affine(), p.activation, nullptr,
                    only.data(), serial);
    EXPECT_EQ(only, all.d_bias);
  }
}

TEST_P(CpuKernels, FrozenBackwardMatchesTheOracle) {
  for (const Layout layout : {Layout::kContiguous, Layout::kChannelsLast}) {
    for (const ActivationSpec& activation : {kLeakySpec, kIdentitySpec, kEluSpec, kReluSpec}) {
      for_each_type([&](auto t) {
        using T = decltype(t);
        using A = accumulate_t<T>;
        for (const Shape& shape : {Shape{3, 21, 61, layout}, Shape{2, 2, 40000, layout}}) {
          SCOPED_TRACE(describe<T>(shape, activation));
          Problem<T> p(shape, activation, 4);
          p.mode = activation.kind == Activation::kELU ? GammaMode::kLegacy : GammaMode::kSigned;
          const size_t c = size_t(shape.c);
          const std::vector<double> mean(c, 0.125), var(c, 1.5);
          const std::vector<A> mean_a(c, A(0.125)), var_a(c, A(1.5));
          Oracle o = forward_oracle(p, mean.data(), var.data());
          backward_oracle(p, o, /*frozen=*/true);
          Buffer<T> applied = p.x;
          apply<T>(applied.data(), shape, mean_a.data(), var_a.data(), p.affine(), activation, serial);
          EXPECT_TRUE(near("z", applied.data(), o.z, o.z_bound));

          const Buffer<T> z = stored<T>(o.z, 1);
          Buffer<T> d_x(shape.numel(), 1), alone(shape.numel(), 1);
          std::vector<A> d_weight(c), d_bias(c), d_weight_alone(c);
          backward_frozen<T>(z.data(), p.d_z.data(), d_x.data(), shape, var_a.data(), p.affine(), activation,
                             d_weight.data(), d_bias.data(), serial);
          EXPECT_TRUE(near("d_x", d_x.data(), o.d_x, o.d_x_bound));
          EXPECT_TRUE(near("d_weight", d_weight.data(), times(o.d_gamma, o.sign), o.d_gamma_bound));
          EXPECT_TRUE(near("d_bias", d_bias.data(), o.d_beta, o.d_beta_bound));
          backward_frozen<T>(z.data(), p.d_z.data(), alone.data(), shape, var_a.data(), p.affine(), activation,
                             static_cast<A*>(nullptr), static_cast<A*>(nullptr), serial);
          EXPECT_TRUE(alone.same_bits(d_x));
          backward_frozen<T>(z.data(), p.d_z.data(), static_cast<T*>(nullptr), shape, var_a.data(), p.affine(),
                             activation, d_weight_alone.data(), static_cast<A*>(nullptr), serial);
          EXPECT_EQ(d_weight_alone, d_weight);
        }
      });
    }
  }
}

TEST_P(CpuKernels, GammaZeroIsFiniteAndPassesNoGradient) {
  for (const Layout layout : {Layout::kContiguous, Layout::kChannelsLast}) {
    for_each_type([&](auto t) {
      using T = decltype(t);
      using A = accumulate_t<T>;
      for (const double beta : {0.0, 1.0}) {
        const Shape shape{4, 18, 33, layout};
        Problem<T> p(shape, kLeakySpec, 6);
        p.weight.assign(18, A(0));
        p.bias.assign(18, A(beta));
        Oracle o = forward_oracle(p);
        const Result<T> r = run_fused(p, o, serial);
        EXPECT_TRUE(near("z", r.z.data(), o.z, o.z_bound));
        for (int64_t i = 0; i < shape.numel(); ++i) ASSERT_EQ(wide(r.d_x.data()[i]), 0);
        for (size_t c = 0; c < 18; ++c) {
          EXPECT_EQ(r.d_weight[c], A(0));  // z says nothing about x_hat here
          EXPECT_TRUE(std::isfinite(double(r.d_bias[c])));
        }
        std::vector<A> d_weight(18, A(1));
        backward_frozen<T>(r.z.data(), p.d_z.data(), static_cast<T*>(nullptr), shape, r.var.data(), p.affine(),
                           p.activation, d_weight.data(), static_cast<A*>(nullptr), serial);
        EXPECT_EQ(d_weight, std::vector<A>(18, A(0)));
      }
    });
  }
}

TEST_P(CpuKernels, NegatedGammaAndBetaMirrorTheResultOfIdentity) {
  const Shape shape{3, 9, 100, Layout::kContiguous};
  Problem<float> p(shape, kIdentitySpec, 9);
  Oracle o = forward_oracle(p);
  const Result<float> r = run_fused(p, o, serial);
  for (auto& w : p.weight) w = -w;
  for (auto& b : p.bias) b = -b;
  for (auto& z : o.z) z = -z;
  const Result<float> mirrored = run_fused(p, o, serial);
  for (int64_t i = 0; i < shape.numel(); ++i) {
    ASSERT_EQ(mirrored.z.data()[i], -r.z.data()[i]);
    ASSERT_EQ(mirrored.d_x.data()[i], -r.d_x.data()[i]);
  }
  EXPECT_EQ(mirrored.d_weight, r.d_weight);
}

TEST_P(CpuKernels, NaNAndInfinityReachTheOutputAndTheGradients) {
  constexpr double kNaN = std::numeric_limits<double>::quiet_NaN(), kInf = std::numeric_limits<double>::infinity();
  for (const Layout layout : {Layout::kContiguous, Layout::kChannelsLast}) {
    for (const ActivationSpec& activation : kInvertible) {
      for_each_type([&](auto t) {
        using T = decltype(t);
        using A = accumulate_t<T>;
        for (const double bad : {kNaN, kInf, -kInf}) {
          for (const int64_t s : {3, 150}) {  // in a tail and in a whole block
            SCOPED_TRACE(describe<T>({2, 20, s, layout}, activation) + " " + std::to_string(bad));
            const Shape shape{2, 20, s, layout};
            Problem<T> p(shape, activation, 12);
            p.x.data()[index(shape, 1, 5, s - 1)] = rounded<T>(bad);
            Oracle o;
            o.z.assign(size_t(shape.numel()), 0.5);
            const Result<T> r = run_fused(p, o, serial);
            for (int64_t c = 0; c < 20; ++c) {
              each_in_channel(shape, c, [&](size_t i) { ASSERT_EQ(std::isnan(wide(r.z.data()[i])), c == 5); });
            }
            // Elementwise with given statistics: the bad element alone, an infinity as the formula has it.
            std::vector<A> mean(20, A(0)), var(20, A(1));
            Buffer<T> z = p.x;
            apply<T>(z.data(), shape, mean.data(), var.data(), p.affine(), activation, serial);
            const double got = wide(z.data()[index(shape, 1, 5, s - 1)]);
            const double want = act_forward(activation, bad * double(p.weight[5]));
            if (std::isnan(bad)) {
              EXPECT_TRUE(std::isnan(got));
            } else if (std::isinf(want)) {
              EXPECT_EQ(got, want);
            } else {
              EXPECT_NEAR(got, want, 4 * unit_roundoff<T>());
            }
            EXPECT_FALSE(std::isnan(wide(z.data()[index(shape, 1, 5, 0)])));

            // Backward: in z, and in d_z.
            for (const bool in_z : {true, false}) {
              Buffer<T> saved = stored<T>(o.z, 0), d_z = p.d_z, d_x(shape.numel(), 0);
              (in_z ? saved : d_z).data()[index(shape, 1, 5, s - 1)] = rounded<T>(bad);
              std::vector<A> d_weight(20), d_bias(20);
              backward<T>(saved.data(), d_z.data(), d_x.data(), shape, var.data(), p.affine(), activation,
                          d_weight.data(), d_bias.data(), serial);
              // ELU has no output below -alpha: an infinity there counts as saturated.
              if (!(in_z && bad == -kInf && activation.kind == Activation::kELU)) {
                EXPECT_FALSE(std::isfinite(wide(d_x.data()[index(shape, 1, 5, s - 1)]))) << in_z;
                EXPECT_FALSE(std::isfinite(double(d_weight[5]))) << in_z;
              }
              EXPECT_TRUE(std::isfinite(double(d_weight[4])));
              EXPECT_TRUE(std::isfinite(wide(d_x.data()[index(shape, 0, 6, 0)])));
            }
          }
        }
      });
    }
  }
}

TEST_P(CpuKernels, ANaNWithAnyPayloadInAParameterReachesTheOutput) {
  for_each_type([&](auto t) {
    using T = decltype(t);
    using A = accumulate_t<T>;
    using Word = std::conditional_t<sizeof(A) == 4, uint32_t, uint64_t>;
    const Shape shape{2, 2, 20, Layout::kContiguous};
    for (const Word word : {~Word(0) >> 1, ~Word(0), (std::bit_cast<Word>(std::numeric_limits<A>::infinity())) + 1}) {
      const A nan = std::bit_cast<A>(word);
      const std::vector<A> good(2, A(1)), bad{A(1), nan};
      for (const int which : {0, 1, 2}) {
        Problem<T> p(shape, kLeakySpec, 4);
        apply<T>(p.x.data(), shape, (which == 0 ? bad : good).data(), good.data(),
                 {(which == 1 ? bad : good).data(), (which == 2 ? bad : good).data(), GammaMode::kSigned, A(0)},
                 kLeakySpec, serial);
        for (int64_t c = 0; c < 2; ++c) {
          each_in_channel(shape, c, [&](size_t i) { ASSERT_EQ(std::isnan(wide(p.x.data()[i])), c == 1) << which; });
        }
      }
    }
  });
}

TEST_P(CpuKernels, RoundingToSixteenBitsIsToNearestEven) {
  const auto check = [&](auto t) {
    using T = decltype(t);
    const Shape shape{1, 1, 65536, Layout::kContiguous};
    for (const float factor : {1.0f, 1.5f, 0.75f, 3e-5f, 1.00390625f, 4097.0f}) {
      std::vector<T> x(65536);
      for (uint32_t i = 0; i < 65536; ++i) x[i] = T(uint16_t(i), T::from_bits());
      const std::vector<T> before = x;
      const float mean = 0, var = 1, bias = -0.0f;
      apply<T>(x.data(), shape, &mean, &var, {&factor, &bias, GammaMode::kSigned, 0.0f}, kIdentitySpec, serial);
      for (uint32_t i = 0; i < 65536; ++i) {
        const T want = T(float(before[i]) * factor);
        if (std::isnan(float(want))) {
          ASSERT_TRUE(std::isnan(float(x[i]))) << i;
        } else {
          ASSERT_EQ(x[i].x, want.x) << "factor " << factor << " bits " << i;
        }
      }
    }
  };
  check(Half{});
  check(BFloat16{});
}

TEST_P(CpuKernels, EluIsAccurateAndItsInverseIsClampedWhereItSaturates) {
  const auto check = [&](auto t, double relative) {
    using T = decltype(t);
    using A = accumulate_t<T>;
    const A mean = 0, var = 1, one = 1, zero = 0;
    const Affine<A> affine{&one, &zero, GammaMode::kSigned, A(0)};
    for (const double alpha : {1.0, 0.3}) {
      const ActivationSpec elu{Activation::kELU, alpha};
      std::vector<T> y;
      for (double v = -120; v < -1e-30; v *= 0.97) y.push_back(rounded<T>(v));
      for (double v = 1e-30; v < 100; v *= 1.5) y.push_back(rounded<T>(v));
      std::vector<T> z = y;
      const Shape shape{1, 1, int64_t(y.size()), Layout::kContiguous};
      apply<T>(z.data(), shape, &mean, &var, affine, elu, serial);
      for (size_t i = 0; i < y.size(); ++i) {
        const double want = act_forward(elu, wide(y[i]));
        ASSERT_NEAR(wide(z[i]), want, relative * std::abs(want) + smallest_step<T>()) << wide(y[i]);
      }
      // d_y = d_z * (z + alpha) for frozen statistics, and sum d_y*y with y from the inverse: one element at a time.
      for (size_t i = 0; i < y.size(); i += 7) {
        const T d_z = rounded<T>(1);
        T d_x;
        A d_weight, d_bias;
        backward_frozen<T>(&z[i], &d_z, &d_x, {1, 1, 1, Layout::kContiguous}, &var, affine, elu, &d_weight, &d_bias,
                           serial);
        const double v = wide(y[i]);
        const double slope = v > 0 ? 1 : alpha * std::exp(v);
        const double z_error = relative * std::abs(wide(z[i])) + 2 * unit_roundoff<A>() * alpha;
        ASSERT_NEAR(wide(d_x), slope, 2 * z_error + unit_roundoff<T>() * slope) << v;
        ASSERT_GE(wide(d_x), 0) << v;
        ASSERT_TRUE(std::isfinite(double(d_weight))) << v;
        ASSERT_NEAR(double(d_weight), slope * v, 2 * z_error * std::max(1.0, std::abs(v)) * 2 + 1e-30) << v;
      }
    }
  };
  check(double{}, 8 * 0x1p-53);
  check(float{}, 8 * 0x1p-24);
  check(Half{}, 1.01 * 0x1p-11);
  check(BFloat16{}, 1.01 * 0x1p-8);
}

TEST_P(CpuKernels, ASaturatedEluEntersTheSumsAtTheEndOfItsRoundingInterval) {
  for_each_type([&](auto t) {
    using T = decltype(t);
    using A = accumulate_t<T>;
    for (const double alpha : {1.0, 0.3, 0.7}) {
      const Shape shape{1, 1, 3, Layout::kContiguous};
      const T saturated = rounded<T>(-double(A(alpha)));  // may lie beyond -alpha by half a unit
      const std::vector<T> z(3, saturated), d_z(3, rounded<T>(1));
      std::vector<A> sums(4);
      backward_reduce<T>(z.data(), d_z.data(), shape, {}, {Activation::kELU, alpha}, sums.data(), serial);
      const double floor = std::log(2 * unit_roundoff<T>() / 4);
      // Where -alpha is rounded towards zero its inverse is finite, and above the floor.
      EXPECT_GE(sums[2], 3 * floor * (1 + 4 * unit_roundoff<A>()));
      EXPECT_LE(sums[2], 3 * std::log(2 * unit_roundoff<T>()) / 2);
      EXPECT_NEAR(sums[0], 0, 3 * unit_roundoff<T>());
    }
  });
}

TEST_P(CpuKernels, LeakyReluDecidesByTheSignBit) {
  // z = -0.0 is an underflowed negative: its gradient takes the slope.
  for (const Layout layout : {Layout::kContiguous, Layout::kChannelsLast}) {
    const Shape shape{1, 2, 40, layout};
    std::vector<float> z(80, -0.0f), d_z(80, 1.0f), d_x(80);
    const std::vector<float> var(2, 1.0f);
    const Affine<float> affine{nullptr, nullptr, GammaMode::kSigned, 0.0f};
    backward_frozen<float>(z.data(), d_z.data(), d_x.data(), shape, var.data(), affine, kLeakySpec, nullptr, nullptr,
                           serial);
    for (const float d : d_x) ASSERT_EQ(d, 0.01f);
    z.assign(80, 0.0f);
    backward_frozen<float>(z.data(), d_z.data(), d_x.data(), shape, var.data(), affine, kLeakySpec, nullptr, nullptr,
                           serial);
    for (const float d : d_x) ASSERT_EQ(d, 1.0f);
  }
}

TEST_P(CpuKernels, RunningStatisticsFollowMomentumAndCumulativeAverage) {
  for_each_type([&](auto t) {
    using T = decltype(t);
    using A = accumulate_t<T>;
    const Shape shape{4, 6, 25, Layout::kContiguous};
    const Problem<T> p(shape, kLeakySpec, 21, 2, 3);
    const Oracle o = forward_oracle(p);
    std::vector<A> mean(6), var(6);
    for (const double momentum : {0.1, -1.0}) {
      std::vector<A> running_mean(6, A(0.5)), running_var(6, A(2));
      int64_t batches = 3;
      Buffer<T> x = p.x;
      forward<T>(x.data(), shape, p.affine(), p.activation,
                 {running_mean.data(), running_var.data(), &batches, momentum}, mean.data(), var.data(), serial);
      EXPECT_EQ(batches, 4);
      const double factor = momentum < 0 ? 0.25 : momentum, m = double(shape.count());
      const double tolerance = 64 * unit_roundoff<A>();
      for (size_t c = 0; c < 6; ++c) {
        EXPECT_NEAR(running_mean[c], (1 - factor) * 0.5 + factor * o.mean[c], 4 * tolerance);
        EXPECT_NEAR(running_var[c], (1 - factor) * 2 + factor * o.var[c] * m / (m - 1), 8 * tolerance);
      }
    }
  });
}

TEST_P(CpuKernels, ParameterGradientsUseLocalSumsAndGlobalStatistics) {
  // Two processes with uneven shares: the sums of their parameter gradients are those of the whole batch.
  const int64_t c = 11;
  const Shape whole{7, c, 50, Layout::kContiguous};
  const Problem<float> p(whole, kLeakySpec, 31);
  Oracle o = forward_oracle(p);
  const Result<float> want = run_fused(p, o, serial);
  const Buffer<float> z = stored<float>(o.z, 1);
  const int64_t split = 2 * c * 50;
  const Shape parts[2] = {{2, c, 50, Layout::kContiguous}, {5, c, 50, Layout::kContiguous}};
  std::vector<float> local[2], sums(4 * c), d_weight(c), d_bias(c), total_weight(c), total_bias(c);
  const float count = 350;
  for (int i = 0; i < 2; ++i) {
    local[i].resize(4 * c);
    backward_reduce<float>(z.data() + i * split, p.d_z.data() + i * split, parts[i], p.affine(), p.activation,
                           local[i].data(), serial);
    for (size_t k = 0; k < sums.size(); ++k) sums[k] += local[i][k];
  }
  Buffer<float> d_x(whole.numel(), 0);
  for (int i = 0; i < 2; ++i) {
    backward_parameters<float>(local[i].data(), sums.data(), &count, c, p.affine(), d_weight.data(), d_bias.data());
    backward_apply<float>(z.data() + i * split, p.d_z.data() + i * split, d_x.data() + i * split, parts[i], sums.data(),
                          &count, want.var.data(), p.affine(), p.activation, serial);
    for (size_t k = 0; k < size_t(c); ++k) {
      total_weight[k] += d_weight[k];
      total_bias[k] += d_bias[k];
    }
  }
  backward_oracle(p, o);
  EXPECT_TRUE(near("d_weight", total_weight.data(), o.d_gamma, o.d_gamma_bound));
  EXPECT_TRUE(near("d_bias", total_bias.data(), o.d_beta, o.d_beta_bound));
  EXPECT_TRUE(near("d_x", d_x.data(), o.d_x, o.d_x_bound));

  const float nothing = 0;
  backward_parameters<float>(local[0].data(), sums.data(), &nothing, c, p.affine(), d_weight.data(), nullptr);
  EXPECT_EQ(d_weight, std::vector<float>(c, 0.0f));
}

TEST_P(CpuKernels, EmptyTensorsGiveZeros) {
  for (const Layout layout : {Layout::kContiguous, Layout::kChannelsLast}) {
    for (const Shape& shape : {Shape{0, 4, 9, layout}, Shape{3, 4, 0, layout}}) {
      std::vector<float> packed(12, 5), sums(16, 5), mean(4, 5), var(4, 5), d_weight(4, 5), d_bias(4, 5);
      std::vector<float> running(4, 2);
      int64_t batches = 1;
      const std::vector<float> zeros(4, 0.0f);
      const Affine<float> affine;
      float none = 0;
      statistics<float>(&none, shape, packed.data(), serial);
      EXPECT_EQ(packed, std::vector<float>(12, 0.0f));
      forward<float>(&none, shape, affine, kLeakySpec, {running.data(), nullptr, &batches, 0.1}, mean.data(),
                     var.data(), serial);
      EXPECT_EQ(mean, zeros);
      EXPECT_EQ(running, std::vector<float>(4, 2.0f));
      apply<float>(&none, shape, mean.data(), var.data(), affine, kLeakySpec, serial);
      backward_reduce<float>(&none, &none, shape, affine, kLeakySpec, sums.data(), serial);
      EXPECT_EQ(sums, std::vector<float>(16, 0.0f));
      backward_apply<float>(&none, &none, &none, shape, sums.data(), &none, var.data(), affine, kLeakySpec, serial);
      backward<float>(&none, &none, &none, shape, var.data(), affine, kLeakySpec, d_weight.data(), d_bias.data(),
                      serial);
      EXPECT_EQ(d_weight, zeros);
      EXPECT_EQ(d_bias, zeros);
      backward_frozen<float>(&none, &none, &none, shape, var.data(), affine, kLeakySpec, d_weight.data(), d_bias.data(),
                             serial);
      EXPECT_EQ(d_weight, zeros);
    }
    forward<float>(nullptr, {3, 0, 5, layout}, {}, kLeakySpec, {}, nullptr, nullptr, serial);
  }
}

TEST(CpuInstructionSets, TheFastestSupportedOneIsActive) {
  ASSERT_FALSE(supported_primitives().empty());
  EXPECT_EQ(&active_primitives(), &supported_primitives().back());
#if defined(__x86_64__) && !defined(__SSE4_1__)  // compiled for every x86-64, so that all four were built
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq")) {
    EXPECT_STREQ(active_primitives().name, "avx512");
    EXPECT_EQ(supported_primitives().size(), 4u);
  }
#endif
}

}  // namespace
}  // namespace iabn::kernels::cpu
