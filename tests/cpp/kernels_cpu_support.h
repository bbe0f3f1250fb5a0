#pragma once

// The parameters, shapes and checks that the tests of the CPU kernels share.

#include <gtest/gtest.h>

#include <sstream>
#include <string>
#include <vector>

#include "tests/cpp/kernels_cpu_oracle.h"

namespace iabn::kernels::cpu::test {

/// Every test runs on every instruction set of this machine.
class CpuKernels : public ::testing::TestWithParam<size_t> {
 protected:
  void SetUp() override { use_primitives(&supported_primitives()[GetParam()]); }
  void TearDown() override { use_primitives(nullptr); }
  const Threads serial{1};
};

template <class F>
void for_each_type(F&& f) {
  f(double{});
  f(float{});
  f(Half{});
  f(BFloat16{});
}

/// Shapes on the boundaries of vectors, blocks, folds and chunks.
inline std::vector<Shape> boundary_shapes() {
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

}  // namespace iabn::kernels::cpu::test
