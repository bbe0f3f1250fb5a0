// The cluster kernels (cluster.h) with plans of every kind, against the float64 oracle; and the calls that choose them,
// on streams side by side and in graphs.

#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "iabn/kernels/cuda/cluster.h"
#include "kernels_cuda_expect.h"

namespace iabn::test {
namespace {

using kernels::BFloat16;
using kernels::Half;
using kernels::cuda::ClusterPlan;
using kernels::cuda::Pass;

constexpr Pass kPasses[] = {Pass::kForward, Pass::kBackward, Pass::kResidualForward, Pass::kResidualBackward};

template <class T>
class CudaCluster : public SlabTest<T> {};
using StorageTypes = testing::Types<float, Half, BFloat16>;
TYPED_TEST_SUITE(CudaCluster, StorageTypes);

/// Any pass of `run` with this plan.
template <class T>
void cluster(Run<T>& run, Pass pass, const ClusterPlan& plan, T* d_x = nullptr,
             const kernels::Running<float>& running = {}) {
  using namespace kernels::cuda;
  const Shape& shape = run.p.shape;
  const auto affine = run.affine();
  float *mean = run.mean.get(), *var = run.var.get(), *d_weight = run.d_weight.get(), *d_bias = run.d_bias.get();
  if (!d_x) d_x = run.d_x.get();
  T *x = run.x.get(), *d_z = run.d_z.get(), *r = run.r.get(), *d_r = run.d_r.get();
  bool launched = false;
  switch (pass) {
    case Pass::kForward:
      launched = cluster_forward<T>(x, shape, affine, run.p.act, running, mean, var, plan, run.stream);
      break;
    case Pass::kBackward:
      launched = cluster_backward<T>(x, d_z, d_x, shape, var, affine, run.p.act, d_weight, d_bias, plan, run.stream);
      break;
    case Pass::kResidualForward:
      launched = cluster_residual_forward<T>(x, r, shape, affine, run.p.act, running, mean, var, plan, run.stream);
      break;
    default:
      launched = cluster_residual_backward<T>(x, d_z, r, d_x, d_r, shape, var, affine, run.p.act, d_weight, d_bias,
                                              plan, run.stream);
  }
  ASSERT_TRUE(launched);
  cuda_check(cudaStreamSynchronize(run.stream));
}

std::string describe_plan(const ClusterPlan& p) {
  return " " + std::to_string(p.channels) + " channels, clusters of " + std::to_string(p.blocks) + " blocks of " +
         std::to_string(p.threads) + " threads, " + std::to_string(p.resident) + " on a multiprocessor";
}

/// Every plan that a shape can have, up to the cluster's size.
template <class T>
std::vector<ClusterPlan> plans(const Shape& shape, Pass pass) {
  std::vector<ClusterPlan> result;
  for (const int channels : {1, 2, 4, 8, 16, 32, 64}) {
    for (const int blocks : {1, 2, 4, 8, 16}) {
      for (const int threads : {128, 256, 512}) {
        for (const int resident : {1, 2}) {
          const ClusterPlan plan{channels, blocks, threads, resident};
          if (kernels::cuda::cluster_cut(shape, sizeof(T), pass, plan)) result.push_back(plan);
        }
      }
    }
  }
  return result;
}

/// Blocks without rows, runs of less than two vectors, runs that no vector divides, rows of many boxes, more slabs than
/// clusters.
std::vector<Shape> cluster_shapes() {
  std::vector<Shape> shapes;
  const int64_t sizes[][3] = {{3, 8, 9},    {128, 16, 49}, {70, 24, 15}, {33, 12, 196}, {128, 3, 784},
                              {9, 5, 1568}, {2, 8, 225},   {1, 16, 49},  {40, 1000, 49}};
  for (const auto& [n, c, s] : sizes) shapes.push_back({n, c, s, Layout::kContiguous});
  return shapes;
}

TYPED_TEST(CudaCluster, EveryPlanGivesEveryPass) {
  for (const Shape& shape : cluster_shapes()) {
    for (const ActivationSpec& act : {kLeaky, kElu}) {
      Problem<TypeParam> plain(shape, act), residual(shape, act);
      residual.add_residual();
      int tried = 0;
      for (const Pass pass : kPasses) {
        const bool is_residual = pass == Pass::kResidualForward || pass == Pass::kResidualBackward;
        const Problem<TypeParam>& p = is_residual ? residual : plain;
        Run<TypeParam> run(p);
        if (!is_forward(pass)) {
          if (is_residual) run.residual_forward();
          if (!is_residual) run.forward();
          if (!is_residual) run.backward_reduce();
        }
        std::vector<ClusterPlan> all = plans<TypeParam>(shape, pass);
        // The oracle takes its time: every eleventh plan of a shape, other ones for each.
        for (size_t i = (shape.numel() + static_cast<size_t>(act.kind)) % 3; i < all.size(); i += 11) {
          const ClusterPlan& plan = all[i];
          SCOPED_TRACE(describe(shape, act) + describe_plan(plan) + " pass " + std::to_string(int(pass)));
          if (is_forward(pass)) run.x.set(p.x);
          cluster(run, pass, plan);
          if (is_forward(pass)) expect_forward(p, run);
          if (!is_forward(pass)) expect_backward(p, run);
          if (this->HasFatalFailure()) return;
          ++tried;
        }
      }
      EXPECT_GT(tried, 0) << describe(shape, act);
    }
  }
}

TYPED_TEST(CudaCluster, TheSameBitsEveryTimeAndOverDz) {
  for (const Shape& shape : {Shape{32, 64, 196, Layout::kContiguous}, Shape{128, 16, 49, Layout::kContiguous}}) {
    const Problem<TypeParam> p(shape, kLeaky);
    for (const ClusterPlan& plan : plans<TypeParam>(shape, Pass::kBackward)) {
      SCOPED_TRACE(describe_plan(plan));
      Run<TypeParam> first(p), second(p);
      for (Run<TypeParam>* run : {&first, &second}) cluster(*run, Pass::kForward, plan);
      EXPECT_TRUE(same_bits(first.x.host(), second.x.host()));
      EXPECT_TRUE(same_bits(first.mean.host(), second.mean.host()));
      EXPECT_TRUE(same_bits(first.var.host(), second.var.host()));
      cluster(first, Pass::kBackward, plan);
      cluster(second, Pass::kBackward, plan, second.d_z.get());
      EXPECT_TRUE(same_bits(first.d_x.host(), second.d_z.host()));
      EXPECT_TRUE(same_bits(first.d_weight.host(), second.d_weight.host()));
      EXPECT_TRUE(same_bits(first.d_bias.host(), second.d_bias.host()));
    }
  }
}

/// z of a constant channel is beta, without the round-off of a large mean.
TYPED_TEST(CudaCluster, ConstantChannelsAreExact) {
  for (const Shape& shape : {Shape{33, 16, 48, Layout::kContiguous}, Shape{33, 16, 49, Layout::kContiguous}}) {
    Problem<TypeParam> p(shape, kIdentity);
    std::fill(p.x.begin(), p.x.end(), TypeParam(9984.f));
    for (const ClusterPlan& plan : plans<TypeParam>(shape, Pass::kForward)) {
      SCOPED_TRACE(describe_plan(plan));
      Run<TypeParam> run(p);
      cluster(run, Pass::kForward, plan);
      const auto z = run.x.host();
      for (size_t i = 0; i < z.size(); ++i) ASSERT_EQ(float(z[i]), float(TypeParam(p.bias[p.channel(i)])));
    }
  }
}

TYPED_TEST(CudaCluster, StatisticsSurviveALargeMeanAndAnOutlierInFront) {
  for (const Shape& shape : {Shape{64, 8, 392, Layout::kContiguous}, Shape{32, 4, 784, Layout::kContiguous}}) {
    const auto p = hard_problem<TypeParam>(shape);
    for (const ClusterPlan& plan : plans<TypeParam>(shape, Pass::kForward)) {
      SCOPED_TRACE(describe(shape, kLeaky) + describe_plan(plan));
      Run<TypeParam> run(p);
      cluster(run, Pass::kForward, plan);
      expect_hard_statistics(p, run);
    }
  }
}

TYPED_TEST(CudaCluster, RunningStatisticsAndLegacyGamma) {
  for (const Shape& shape : {Shape{6, 16, 64, Layout::kContiguous}}) {
    Problem<TypeParam> p(shape, kIdentity);
    p.mode = kernels::GammaMode::kLegacy;
    for (int c = 0; c < 16; c += 2) p.weight[c] = -p.weight[c];
    const Oracle oracle(p);
    for (const ClusterPlan& plan : plans<TypeParam>(shape, Pass::kBackward)) {
      SCOPED_TRACE(describe(shape, p.act) + describe_plan(plan));
      DeviceArray<float> mean(std::vector<float>(16, 2.f)), var(std::vector<float>(16, 3.f));
      DeviceArray<int64_t> batches(std::vector<int64_t>{3});
      Run<TypeParam> run(p);
      cluster<TypeParam>(run, Pass::kForward, plan, nullptr, {mean.get(), var.get(), batches.get(), 0.1});
      cluster(run, Pass::kBackward, plan);
      run.backward_reduce();
      expect_forward(p, run);
      expect_backward(p, run);
      EXPECT_EQ(batches.host()[0], 4);
      for (int c = 0; c < 16; ++c) {
        EXPECT_NEAR(mean.host()[c], 2 * 0.9 + 0.1 * double(oracle.mean[c]), 1e-5);
        EXPECT_NEAR(var.host()[c], 3 * 0.9 + 0.1 * 384.0 / 383.0 * double(oracle.var[c]), 1e-5);
      }
    }
  }
}

TYPED_TEST(CudaCluster, NonFiniteNumbersStayInTheirChannels) {
  for (const Shape& shape : {Shape{6, 16, 49, Layout::kContiguous}}) {
    for (const uint32_t poison : {0xffffffffu, 0x7fc00001u, 0x7f800000u}) {
      Problem<TypeParam> p(shape, kLeaky);
      float value;
      std::memcpy(&value, &poison, sizeof(value));
      for (size_t i = 0; i < p.x.size(); ++i) {
        if (p.channel(i) == 2) p.x[i] = TypeParam(value);
      }
      std::memcpy(&p.bias[5], &poison, sizeof(value));
      for (const ClusterPlan& plan : plans<TypeParam>(shape, Pass::kBackward)) {
        SCOPED_TRACE(describe(shape, kLeaky) + describe_plan(plan));
        Run<TypeParam> run(p);
        cluster(run, Pass::kForward, plan);
        cluster(run, Pass::kBackward, plan);
        const auto d_x = run.d_x.host();
        for (size_t i = 0; i < d_x.size(); ++i) {
          ASSERT_EQ(std::isnan(double(d_x[i])), p.channel(i) == 2 || p.channel(i) == 5) << i;
        }
      }
    }
  }
}

TYPED_TEST(CudaCluster, StreamsAndGraphsSideBySideGiveTheSameBits) {
  constexpr int kStreams = 3, kLaunches = 20;
  for (const Shape& shape : {Shape{32, 256, 225, Layout::kContiguous}, Shape{128, 264, 49, Layout::kContiguous}}) {
    ASSERT_TRUE(kernels::cuda::cluster_plan(shape, sizeof(TypeParam), 0, Pass::kForward, true));
    const Problem<TypeParam> p(shape, kLeaky);
    Run<TypeParam> want(p);
    want.forward();
    want.backward();
    cuda_check(cudaDeviceSynchronize());
    const auto z = want.x.host();
    const auto d_x = want.d_x.host();
    const DeviceArray<TypeParam> x(p.x);
    std::vector<std::unique_ptr<Run<TypeParam>>> runs;
    std::vector<cudaGraphExec_t> graphs(kStreams);
    const auto step = [&](Run<TypeParam>& run) {
      cuda_check(
          cudaMemcpyAsync(run.x.get(), x.get(), p.x.size() * sizeof(TypeParam), cudaMemcpyDeviceToDevice, run.stream));
      run.forward();
      run.backward();
    };
    for (int i = 0; i < kStreams; ++i) {
      runs.push_back(std::make_unique<Run<TypeParam>>(p));
      cuda_check(cudaStreamCreateWithFlags(&runs[i]->stream, cudaStreamNonBlocking));
      cudaGraph_t graph;
      cuda_check(cudaStreamBeginCapture(runs[i]->stream, cudaStreamCaptureModeGlobal));
      step(*runs[i]);
      cuda_check(cudaStreamEndCapture(runs[i]->stream, &graph));
      cuda_check(cudaGraphInstantiate(&graphs[i], graph, 0));
      cuda_check(cudaGraphDestroy(graph));
    }
    cuda_check(cudaDeviceSynchronize());
    for (int launch = 0; launch < kLaunches; ++launch) {
      for (int i = 0; i < kStreams; ++i) {
        if ((i + launch) % 2 == 0) cuda_check(cudaGraphLaunch(graphs[i], runs[i]->stream));
        if ((i + launch) % 2 != 0) step(*runs[i]);
      }
    }
    cuda_check(cudaDeviceSynchronize());
    for (int i = 0; i < kStreams; ++i) {
      EXPECT_TRUE(same_bits(runs[i]->x.host(), z));
      EXPECT_TRUE(same_bits(runs[i]->d_x.host(), d_x));
      cuda_check(cudaGraphExecDestroy(graphs[i]));
      cuda_check(cudaStreamDestroy(runs[i]->stream));
    }
  }
}

/// What forward() and the others choose, with cumulative running statistics (other kernels) and without.
TYPED_TEST(CudaCluster, DirectionsTakeThem) {
  for (const Shape& shape : {Shape{32, 256, 225, Layout::kContiguous}, Shape{128, 264, 49, Layout::kContiguous}}) {
    ASSERT_TRUE(kernels::cuda::cluster_plan(shape, sizeof(TypeParam), 0, Pass::kBackward, true));
    Problem<TypeParam> p(shape, kLeaky);
    Run<TypeParam> run(p);
    run.forward();
    expect_forward(p, run);
    run.backward();
    run.backward_reduce();
    expect_backward(p, run);
    p.add_residual();
    Run<TypeParam> residual(p);
    residual.residual_forward();
    expect_forward(p, residual);
    residual.residual_backward();
    expect_backward(p, residual);
  }
}

TYPED_TEST(CudaCluster, PlansFitTheirBlocks) {
  for (const int64_t n : {1, 2, 32, 100, 128, 1000}) {
    for (const int64_t c : {8, 24, 64, 1000, 4096, 100000}) {
      for (const int64_t s : {1, 9, 16, 49, 196, 225, 784, 4225, 12544, 300000}) {
        for (const Pass pass : kPasses) {
          const Shape shape{n, c, s, Layout::kContiguous};
          const auto plan = kernels::cuda::cluster_plan(shape, sizeof(TypeParam), 0, pass, n % 4 == 0);
          if (!plan) continue;
          SCOPED_TRACE(describe(shape, kLeaky) + describe_plan(*plan));
          EXPECT_TRUE(kernels::cuda::cluster_cut(shape, sizeof(TypeParam), pass, *plan));
        }
      }
    }
  }
  const auto taken = [](const Shape& shape, int element_bytes, uintptr_t address) {
    return kernels::cuda::cluster_plan(shape, element_bytes, address, Pass::kForward, true).has_value();
  };
  EXPECT_TRUE(taken({128, 512, 49, Layout::kContiguous}, 2, 0));
  EXPECT_FALSE(taken({128, 512, 49, Layout::kContiguous}, 2, 2));   // unaligned
  EXPECT_FALSE(taken({128, 511, 49, Layout::kContiguous}, 2, 0));   // samples of 50078 bytes
  EXPECT_FALSE(taken({128, 512, 49, Layout::kContiguous}, 8, 0));   // float64
  EXPECT_FALSE(taken({128, 512, 784, Layout::kContiguous}, 2, 0));  // runs of whole vectors
  EXPECT_FALSE(taken({128, 512, 49, Layout::kChannelsLast}, 2, 0));
  for (const bool channel_kernel : {false, true}) {  // which is as fast, where it applies
    const Shape many{256, 1024, 196, Layout::kContiguous};
    EXPECT_NE(kernels::cuda::cluster_plan(many, 2, 0, Pass::kBackward, channel_kernel).has_value(), channel_kernel);
  }
}

}  // namespace
}  // namespace iabn::test
