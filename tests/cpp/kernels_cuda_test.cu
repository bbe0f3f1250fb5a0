// Values of the CUDA kernels against the float64 oracle of kernels_cuda_support.h. Without a GPU every test fails.

#include <gtest/gtest.h>

#include <limits>

#include "kernels_cuda_expect.h"

namespace iabn::test {
namespace {

using kernels::BFloat16;
using kernels::GammaMode;
using kernels::Half;

template <class T>
class CudaKernels : public testing::Test {};
using StorageTypes = testing::Types<double, float, Half, BFloat16>;
TYPED_TEST_SUITE(CudaKernels, StorageTypes);

TYPED_TEST(CudaKernels, ForwardIsBatchNormThenActivation) {
  for (const Shape& shape : boundary_shapes()) {
    for (const ActivationSpec& act : {kIdentity, kLeaky, kElu, kRelu}) {
      for (size_t shift : {0, 1}) {
        SCOPED_TRACE(describe(shape, act) + " shift " + std::to_string(shift));
        const Problem<TypeParam> p(shape, act);
        Run<TypeParam> run(p, shift);
        run.forward();
        expect_forward(p, run);
        if (this->HasFatalFailure()) return;
      }
    }
  }
}

/// On devices where forward() and backward() take other kernels, too.
TYPED_TEST(CudaKernels, TwoPassDirectionsAreTheSame) {
  for (const Shape& shape : boundary_shapes()) {
    for (const ActivationSpec& act : {kLeaky, kElu}) {
      SCOPED_TRACE(describe(shape, act));
      const Problem<TypeParam> p(shape, act);
      Run<TypeParam> run(p);
      run.two_pass_forward();
      expect_forward(p, run);
      run.two_pass_backward();
      run.backward_reduce();
      expect_backward(p, run);
      if (this->HasFatalFailure()) return;
    }
  }
}

TYPED_TEST(CudaKernels, BackwardIsItsDefinition) {
  for (const Shape& shape : boundary_shapes()) {
    for (const ActivationSpec& act : {kIdentity, kLeaky, kElu}) {
      for (size_t shift : {0, 1}) {
        SCOPED_TRACE(describe(shape, act) + " shift " + std::to_string(shift));
        const Problem<TypeParam> p(shape, act);
        Run<TypeParam> run(p, shift);
        run.forward();
        run.backward();
        run.backward_reduce();
        expect_backward(p, run);
        if (this->HasFatalFailure()) return;
      }
    }
  }
}

TYPED_TEST(CudaKernels, GradientsAreThoseOfBatchNorm) {
  for (const Layout layout : {Layout::kContiguous, Layout::kChannelsLast}) {
    for (const ActivationSpec& act : {kIdentity, kLeaky, kElu}) {
      const Problem<TypeParam> p({16, 24, 400, layout}, act);
      SCOPED_TRACE(describe(p.shape, act));
      const Oracle oracle(p);
      Run<TypeParam> run(p);
      run.forward();
      run.backward();
      // z is rounded once, d_x once; the channel sums average the rounding of z. ELU's inverse widens it near -alpha.
      const double tolerance = 8 * unit_roundoff<TypeParam>();
      EXPECT_LE(relative_error(run.d_x.host(), oracle.d_x), tolerance);
      EXPECT_LE(relative_error(run.d_weight.host(), oracle.d_gamma), tolerance);
      EXPECT_LE(relative_error(run.d_bias.host(), oracle.d_beta), tolerance);
    }
  }
}

TYPED_TEST(CudaKernels, NonFiniteInputsReachTheResults) {
  for (const Layout layout : {Layout::kContiguous, Layout::kChannelsLast}) {
    for (const ActivationSpec& act : {kIdentity, kLeaky, kElu, kRelu}) {
      for (const double poison : {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
        Problem<TypeParam> p({3, 4, 50, layout}, act);
        SCOPED_TRACE(describe(p.shape, act));
        const int64_t at = layout == Layout::kChannelsLast ? 7 * 4 + 2 : 2 * 50 + 7;  // channel 2
        p.x[at] = TypeParam(static_cast<float>(poison));
        Run<TypeParam> run(p);
        run.forward();
        const auto z = run.x.host();
        for (size_t i = 0; i < z.size(); ++i) EXPECT_EQ(std::isnan(double(z[i])), p.channel(i) == 2);
        if (act.kind == Activation::kReLU) continue;
        run.backward();
        const auto d_x = run.d_x.host();
        for (size_t i = 0; i < d_x.size(); ++i) EXPECT_EQ(std::isnan(double(d_x[i])), p.channel(i) == 2);
        EXPECT_TRUE(std::isnan(double(run.d_weight.host()[2])));
      }
    }
  }
}

TYPED_TEST(CudaKernels, StatisticsSurviveALargeMeanAndAnOutlierInFront) {
  for (const Layout layout : {Layout::kContiguous, Layout::kChannelsLast}) {
    const auto p = hard_problem<TypeParam>({64, 3, 500, layout});
    Run<TypeParam> run(p);
    run.forward();
    expect_hard_statistics(p, run);
  }
}

TYPED_TEST(CudaKernels, GammaOfAnySignAndLegacyGamma) {
  for (const GammaMode mode : {GammaMode::kSigned, GammaMode::kLegacy}) {
    for (const Layout layout : {Layout::kContiguous, Layout::kChannelsLast}) {
      Problem<TypeParam> p({16, 6, 60, layout}, kLeaky);
      p.mode = mode;
      for (int c = 0; c < 6; c += 2) p.weight[c] = -p.weight[c];
      Run<TypeParam> run(p);
      run.forward();
      run.backward();
      run.backward_reduce();
      expect_forward(p, run);
      expect_backward(p, run);
    }
  }
}

TYPED_TEST(CudaKernels, GammaZeroStaysFiniteWithZeroDx) {
  for (const Layout layout : {Layout::kContiguous, Layout::kChannelsLast}) {
    Problem<TypeParam> p({16, 6, 60, layout}, kLeaky);
    std::fill(p.weight.begin(), p.weight.end(), accumulate_t<TypeParam>(0));
    p.bias[0] = 0;
    Run<TypeParam> run(p);
    run.forward();
    expect_forward(p, run);
    run.backward();
    for (const TypeParam v : run.d_x.host()) EXPECT_EQ(double(v), 0);
    for (const auto v : run.d_weight.host()) EXPECT_TRUE(std::isfinite(v));
  }
}

TYPED_TEST(CudaKernels, MissingParametersAreOneAndZero) {
  Problem<TypeParam> p({4, 20, 33, Layout::kContiguous}, kElu);
  Run<TypeParam> bare(p);
  kernels::cuda::forward<TypeParam>(bare.x.get(), p.shape, {nullptr, nullptr, GammaMode::kSigned, p.eps}, p.act, {},
                                    bare.mean.get(), bare.var.get(), bare.workspace.get(), nullptr);
  std::fill(p.weight.begin(), p.weight.end(), accumulate_t<TypeParam>(1));
  std::fill(p.bias.begin(), p.bias.end(), accumulate_t<TypeParam>(0));
  Run<TypeParam> explicit_run(p);
  explicit_run.forward();
  EXPECT_TRUE(same_bits(bare.x.host(), explicit_run.x.host()));
}

TYPED_TEST(CudaKernels, FrozenBackwardIsLinearInDy) {
  for (const Layout layout : {Layout::kContiguous, Layout::kChannelsLast}) {
    for (const ActivationSpec& act : {kIdentity, kLeaky, kElu, kRelu}) {
      const Problem<TypeParam> p({4, 9, 40, layout}, act);
      SCOPED_TRACE(describe(p.shape, act));
      Run<TypeParam> run(p);
      run.forward();  // z of some statistics; frozen ones are as good as any
      const auto affine = run.affine();
      // No workspace: without parameter gradients there must be no reduction.
      kernels::cuda::backward_frozen<TypeParam>(run.x.get(), run.d_z.get(), run.d_x.get(), p.shape, run.var.get(),
                                                affine, p.act, nullptr, nullptr, nullptr, nullptr);
      const auto d_x = run.d_x.host();
      kernels::cuda::backward_frozen<TypeParam>(run.x.get(), run.d_z.get(), run.d_x.get(), p.shape, run.var.get(),
                                                affine, p.act, run.d_weight.get(), run.d_bias.get(),
                                                run.workspace.get(), nullptr);
      EXPECT_TRUE(same_bits(run.d_x.host(), d_x));
      const Oracle oracle(p);
      const double u = unit_roundoff<TypeParam>() + kGrowth * accumulate_roundoff<TypeParam>();
      expect_close(
          d_x,
          [&](size_t i) {
            const int64_t c = p.channel(i);
            const double a = p.gamma(c) / std::sqrt(oracle.var[c] + double(p.eps));
            const double y = a * (double(p.x[i]) - oracle.mean[c]) + double(p.bias[c]);
            const double want = a * double(p.d_z[i]) * slope_at(p.act, y);
            return std::pair(want, 4 * u * std::abs(a * double(p.d_z[i])));
          },
          "d_x");
      const double m = double(p.shape.count());
      expect_close(
          run.d_bias.host(), [&](size_t c) { return std::pair(oracle.d_beta[c], 4 * u * m); }, "d_bias");
      expect_close(
          run.d_weight.host(), [&](size_t c) { return std::pair(oracle.d_gamma[c], 8 * u * m); }, "d_weight");
    }
  }
}

TYPED_TEST(CudaKernels, UnwantedGradientsAreNotWritten) {
  const Problem<TypeParam> p({4, 9, 40, Layout::kContiguous}, kLeaky);
  Run<TypeParam> all(p), some(p);
  all.forward();
  all.two_pass_backward();  // the one that is taken where d_x is not wanted
  some.forward();
  some.backward_into(nullptr);
  EXPECT_TRUE(same_bits(some.d_weight.host(), all.d_weight.host()));
  kernels::cuda::backward<TypeParam>(some.x.get(), some.d_z.get(), some.d_x.get(), p.shape, some.var.get(),
                                     some.affine(), p.act, nullptr, nullptr, some.workspace.get(), nullptr);
  all.backward();
  EXPECT_TRUE(same_bits(some.d_x.host(), all.d_x.host()));
}

TYPED_TEST(CudaKernels, RunningStatisticsFollowMomentum) {
  using A = accumulate_t<TypeParam>;
  for (const double momentum : {0.1, -1.0}) {
    const Problem<TypeParam> p({6, 5, 40, Layout::kChannelsLast}, kLeaky);
    const Oracle oracle(p);
    DeviceArray<A> mean(std::vector<A>(5, A(2))), var(std::vector<A>(5, A(3)));
    DeviceArray<int64_t> batches(std::vector<int64_t>{3});
    Run<TypeParam> run(p);
    run.forward({mean.get(), var.get(), batches.get(), momentum});
    EXPECT_EQ(batches.host()[0], 4);
    const double factor = momentum < 0 ? 0.25 : momentum;
    const double unbiased = 240.0 / 239.0;
    for (int c = 0; c < 5; ++c) {
      EXPECT_NEAR(double(mean.host()[c]), 2 * (1 - factor) + factor * oracle.mean[c], 1e-5);
      EXPECT_NEAR(double(var.host()[c]), 3 * (1 - factor) + factor * unbiased * oracle.var[c], 1e-5);
    }
  }
}

}  // namespace
}  // namespace iabn::test
