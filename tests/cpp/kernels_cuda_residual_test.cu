// The residual form, z = act(y + r): forward, d_x, d_r and the parameters' gradients against the float64 oracle, in the
// kernels that the call chooses, in the two passes, and in slab kernels of every kind of plan.

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "iabn/kernels/cuda/slab.h"
#include "iabn/kernels/cuda/two_pass.h"
#include "kernels_cuda_expect.h"

namespace iabn::test {
namespace {

using kernels::BFloat16;
using kernels::Half;
using kernels::cuda::Pass;
using kernels::cuda::SlabPlan;

template <class T>
Problem<T> residual_problem(const Shape& shape, const ActivationSpec& act) {
  Problem<T> p(shape, act);
  p.add_residual();
  return p;
}

template <class T>
class CudaResidual : public testing::Test {};
using StorageTypes = testing::Types<double, float, Half, BFloat16>;
TYPED_TEST_SUITE(CudaResidual, StorageTypes);

TYPED_TEST(CudaResidual, BothDirectionsAreTheirDefinition) {
  for (const Shape& shape : boundary_shapes()) {
    for (const ActivationSpec& act : {kIdentity, kLeaky, kElu}) {
      for (size_t shift : {0, 1}) {
        SCOPED_TRACE(describe(shape, act) + " shift " + std::to_string(shift));
        const auto p = residual_problem<TypeParam>(shape, act);
        Run<TypeParam> run(p, shift);
        run.residual_forward();
        expect_forward(p, run);
        run.residual_backward();
        expect_backward(p, run);
        if (this->HasFatalFailure()) return;
      }
    }
  }
}

TYPED_TEST(CudaResidual, TwoPassesAreTheSame) {
  for (const Shape& shape : boundary_shapes()) {
    SCOPED_TRACE(describe(shape, kLeaky));
    const auto p = residual_problem<TypeParam>(shape, kLeaky);
    Run<TypeParam> run(p);
    kernels::cuda::two_pass_residual_forward<TypeParam>(run.x.get(), run.r.get(), shape, run.affine(), p.act, {},
                                                        run.mean.get(), run.var.get(), run.workspace.get(), nullptr);
    expect_forward(p, run);
    kernels::cuda::two_pass_residual_backward<TypeParam>(
        run.x.get(), run.d_z.get(), run.r.get(), run.d_x.get(), run.d_r.get(), shape, run.var.get(), run.affine(),
        p.act, run.d_weight.get(), run.d_bias.get(), run.workspace.get(), nullptr);
    expect_backward(p, run);
    if (this->HasFatalFailure()) return;
  }
}

TYPED_TEST(CudaResidual, GradientsAreThoseOfBatchNormAndAddition) {
  for (const Layout layout : {Layout::kContiguous, Layout::kChannelsLast}) {
    for (const ActivationSpec& act : {kIdentity, kLeaky, kElu}) {
      const auto p = residual_problem<TypeParam>({16, 24, 400, layout}, act);
      SCOPED_TRACE(describe(p.shape, act));
      const Oracle oracle(p);
      Run<TypeParam> run(p);
      run.residual_forward();
      run.residual_backward();
      // Rounding of z now counts against y + r, of twice the size of y.
      const double tolerance = 16 * unit_roundoff<TypeParam>();
      EXPECT_LE(relative_error(run.d_x.host(), oracle.d_x), tolerance);
      EXPECT_LE(relative_error(run.d_r.host(), oracle.d_y), tolerance);
      EXPECT_LE(relative_error(run.d_weight.host(), oracle.d_gamma), tolerance);
      EXPECT_LE(relative_error(run.d_bias.host(), oracle.d_beta), tolerance);
    }
  }
}

/// Of d_x and d_r one may take d_z's place; the bits are the same, and the same every time.
TYPED_TEST(CudaResidual, GradientsMayReplaceTheIncomingOne) {
  for (const Layout layout : {Layout::kContiguous, Layout::kChannelsLast}) {
    for (const Shape& shape : {Shape{3, 40, 49, layout}, Shape{32, 64, 784, layout}}) {
      SCOPED_TRACE(describe(shape, kLeaky));
      const auto p = residual_problem<TypeParam>(shape, kLeaky);
      Run<TypeParam> apart(p), over_x(p), over_r(p);
      for (Run<TypeParam>* run : {&apart, &over_x, &over_r}) run->residual_forward();
      apart.residual_backward();
      over_x.residual_backward_into(over_x.d_z.get(), over_x.d_r.get());
      over_r.residual_backward_into(over_r.d_x.get(), over_r.d_z.get());
      EXPECT_TRUE(same_bits(apart.x.host(), over_x.x.host()));
      EXPECT_TRUE(same_bits(apart.d_x.host(), over_x.d_z.host()));
      EXPECT_TRUE(same_bits(apart.d_r.host(), over_x.d_r.host()));
      EXPECT_TRUE(same_bits(apart.d_x.host(), over_r.d_x.host()));
      EXPECT_TRUE(same_bits(apart.d_r.host(), over_r.d_z.host()));
    }
  }
}

TYPED_TEST(CudaResidual, RunningStatisticsAreThoseOfThePlainForm) {
  using A = accumulate_t<TypeParam>;
  for (const Layout layout : {Layout::kContiguous, Layout::kChannelsLast}) {
    for (const double momentum : {0.1, -1.0}) {
      const auto p = residual_problem<TypeParam>({8, 64, 100, layout}, kLeaky);
      std::vector<A> means, vars;
      for (const bool residual : {false, true}) {
        Run<TypeParam> run(p);
        const DeviceArray<A> mean(std::vector<A>(p.shape.c, A(0.5))), var(std::vector<A>(p.shape.c, A(2)));
        const DeviceArray<int64_t> batches(std::vector<int64_t>{3});
        const kernels::Running<A> running{mean.get(), var.get(), batches.get(), momentum};
        if (residual) run.residual_forward(running);
        if (!residual) run.forward(running);
        EXPECT_EQ(batches.host()[0], 4);
        if (!residual) {
          means = mean.host();
          vars = var.host();
          continue;
        }
        expect_close(
            mean.host(), [&](size_t c) { return std::pair(means[c], 1e-5); }, "running mean");
        expect_close(
            var.host(), [&](size_t c) { return std::pair(vars[c], 1e-5 * vars[c]); }, "running var");
      }
    }
  }
}

template <class T>
class CudaResidualSlab : public SlabTest<T> {};
using SlabTypes = testing::Types<float, Half, BFloat16>;
TYPED_TEST_SUITE(CudaResidualSlab, SlabTypes);

/// Plans that reach every branch of a block's share: registers alone, the ring, chunks fetched twice.
TYPED_TEST(CudaResidualSlab, EveryPlanGivesForwardAndBackward) {
  constexpr int64_t v = 16 / static_cast<int64_t>(sizeof(TypeParam));
  const std::vector<SlabPlan> row_plans{{64, 1, 1, 0, 0, 0, 0},   {64, 1, 2, 0, 2, 1, 4},  {128, 1, 1, 0, 1, 2, 12},
                                        {128, 2, 3, 9, 0, 3, 12}, {64, 5, 4, 1, 0, 12, 2}, {128, 33, 4, 0, 0, 2, 12}};
  const std::vector<SlabPlan> run_plans{
      {0, 1, 1, 0, 0, 0, 12}, {0, 1, 7, 0, 2, 1, 0}, {0, 3, 5, 0, 1, 2, 3}, {0, 40, 3, 0, 0, 3, 12}};
  const std::vector<Shape> shapes{{2, v, 1, Layout::kChannelsLast},       {3, 3 * v, 7, Layout::kChannelsLast},
                                  {8, 8 * v, 784, Layout::kChannelsLast}, {64, 2 * v, 784, Layout::kChannelsLast},
                                  {3, 5, v, Layout::kContiguous},         {70, 3, 3 * v, Layout::kContiguous},
                                  {9, 7, 98 * v, Layout::kContiguous},    {64, 3, 98 * v, Layout::kContiguous},
                                  {4, 3, 1568 * v, Layout::kContiguous},  {2, 3, 1568 * v, Layout::kContiguous}};
  for (const Shape& shape : shapes) {
    for (const SlabPlan& plan : shape.layout == Layout::kContiguous ? run_plans : row_plans) {
      SCOPED_TRACE(describe(shape, kLeaky) + " rows of " + std::to_string(plan.row_bytes) + ", " +
                   std::to_string(plan.groups) + " groups of " + std::to_string(plan.blocks));
      const auto p = residual_problem<TypeParam>(shape, kLeaky);
      Run<TypeParam> run(p);
      const size_t bytes = kernels::cuda::slab_workspace_bytes(shape, sizeof(TypeParam), plan);
      const DeviceArray<char> workspace(bytes);
      ASSERT_TRUE(kernels::cuda::slab_residual_forward<TypeParam>(run.x.get(), run.r.get(), shape, run.affine(), p.act,
                                                                  {}, run.mean.get(), run.var.get(), plan,
                                                                  workspace.get(), nullptr));
      expect_forward(p, run);
      ASSERT_TRUE(kernels::cuda::slab_residual_backward<TypeParam>(
          run.x.get(), run.d_z.get(), run.r.get(), run.d_x.get(), run.d_r.get(), shape, run.var.get(), run.affine(),
          p.act, run.d_weight.get(), run.d_bias.get(), plan, workspace.get(), nullptr));
      expect_backward(p, run);
      if (this->HasFatalFailure()) return;
    }
  }
}

}  // namespace
}  // namespace iabn::test
