// What kernels.h promises besides values: equal bits, aliasing, graphs, empty tensors, nulls, errors.

#include <gtest/gtest.h>

#include <string>

#include "kernels_cuda_expect.h"

namespace iabn::test {
namespace {

using kernels::BFloat16;
using kernels::Half;

template <class T>
class CudaKernelsContract : public testing::Test {};
using StorageTypes = testing::Types<double, float, Half, BFloat16>;
TYPED_TEST_SUITE(CudaKernelsContract, StorageTypes);

TYPED_TEST(CudaKernelsContract, SplitStepsEqualTheTwoPassDirections) {
  for (const Shape& shape : boundary_shapes()) {
    SCOPED_TRACE(describe(shape, kLeaky));
    const Problem<TypeParam> p(shape, kLeaky);
    Run<TypeParam> fused(p), split(p);
    fused.two_pass_forward();
    fused.two_pass_backward();
    split.statistics();
    auto packed = split.packed.host();
    auto mean = packed, var = packed;
    mean.assign(packed.begin() + shape.c, packed.begin() + 2 * shape.c);
    var.assign(packed.begin() + 2 * shape.c, packed.end());
    for (int64_t c = 0; c < shape.c; ++c) {
      EXPECT_EQ(packed[c], accumulate_t<TypeParam>(shape.count()));
      var[c] /= packed[c];
    }
    EXPECT_TRUE(same_bits(mean, fused.mean.host()));
    EXPECT_TRUE(same_bits(var, fused.var.host()));
    split.mean.set(mean);
    split.var.set(var);
    split.apply();
    EXPECT_TRUE(same_bits(split.x.host(), fused.x.host()));
    split.backward_reduce();
    split.backward_apply();
    kernels::cuda::backward_parameters(split.sums.get(), split.sums.get(), split.count.get(), shape.c, split.affine(),
                                       split.d_weight.get(), split.d_bias.get(), nullptr);
    EXPECT_TRUE(same_bits(split.d_x.host(), fused.d_x.host()));
    EXPECT_TRUE(same_bits(split.d_weight.host(), fused.d_weight.host()));
    EXPECT_TRUE(same_bits(split.d_bias.host(), fused.d_bias.host()));
  }
}

TYPED_TEST(CudaKernelsContract, ThreeRunsGiveTheSameBits) {
  for (const Layout layout : {Layout::kContiguous, Layout::kChannelsLast}) {
    const Problem<TypeParam> p({8, 96, 784, layout}, kElu);
    Run<TypeParam> first(p);
    first.forward();
    first.backward();
    for (int repeat = 0; repeat < 2; ++repeat) {
      Run<TypeParam> again(p);
      again.forward();
      again.backward();
      EXPECT_TRUE(same_bits(again.x.host(), first.x.host()));
      EXPECT_TRUE(same_bits(again.var.host(), first.var.host()));
      EXPECT_TRUE(same_bits(again.d_x.host(), first.d_x.host()));
      EXPECT_TRUE(same_bits(again.d_weight.host(), first.d_weight.host()));
    }
  }
}

TYPED_TEST(CudaKernelsContract, DxMayOverwriteDz) {
  for (const Shape& shape : boundary_shapes()) {
    SCOPED_TRACE(describe(shape, kLeaky));
    const Problem<TypeParam> p(shape, kLeaky);
    Run<TypeParam> apart(p), over(p);
    apart.forward();
    apart.backward();
    over.forward();
    over.backward_into(over.d_z.get());
    EXPECT_TRUE(same_bits(over.d_z.host(), apart.d_x.host()));
    EXPECT_TRUE(same_bits(over.d_weight.host(), apart.d_weight.host()));
    EXPECT_TRUE(same_bits(apart.d_z.host(), p.d_z)) << "d_z was written";
  }
}

TYPED_TEST(CudaKernelsContract, GraphReplayEqualsEager) {
  for (const Layout layout : {Layout::kContiguous, Layout::kChannelsLast}) {
    const Problem<TypeParam> p({8, 40, 196, layout}, kLeaky);
    Run<TypeParam> eager(p), captured(p);
    eager.forward();
    eager.backward();
    cudaStream_t stream;
    cuda_check(cudaStreamCreate(&stream));
    captured.stream = stream;
    cudaGraph_t graph;
    cudaGraphExec_t executable;
    cuda_check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
    captured.forward();
    captured.backward();
    cuda_check(cudaStreamEndCapture(stream, &graph));
    cuda_check(cudaGraphInstantiate(&executable, graph, 0));
    for (int replay = 0; replay < 2; ++replay) {
      captured.x.set(p.x);
      cuda_check(cudaGraphLaunch(executable, stream));
      cuda_check(cudaStreamSynchronize(stream));
      EXPECT_TRUE(same_bits(captured.x.host(), eager.x.host()));
      EXPECT_TRUE(same_bits(captured.d_x.host(), eager.d_x.host()));
      EXPECT_TRUE(same_bits(captured.d_weight.host(), eager.d_weight.host()));
    }
    cuda_check(cudaGraphExecDestroy(executable));
    cuda_check(cudaGraphDestroy(graph));
    cuda_check(cudaStreamDestroy(stream));
  }
}

TYPED_TEST(CudaKernelsContract, EmptyTensorsGiveZeroSums) {
  for (const Layout layout : {Layout::kContiguous, Layout::kChannelsLast}) {
    for (const Shape& shape :
         {Shape{0, 5, 7, layout}, Shape{3, 5, 0, layout}, Shape{40, 5, 0, layout}, Shape{3, 0, 7, layout}}) {
      const Problem<TypeParam> p(shape, kLeaky);
      Run<TypeParam> run(p);
      run.forward();
      run.statistics();
      run.backward_reduce();
      run.backward_apply();
      kernels::cuda::backward_parameters(run.sums.get(), run.sums.get(), run.count.get(), shape.c, run.affine(),
                                         run.d_weight.get(), run.d_bias.get(), nullptr);
      for (const auto v : run.packed.host()) EXPECT_EQ(v, 0);
      for (const auto v : run.sums.host()) EXPECT_EQ(v, 0);
      for (const auto v : run.d_weight.host()) EXPECT_EQ(v, 0);
      run.backward();
      for (const auto v : run.d_weight.host()) EXPECT_EQ(v, 0);
      for (const auto v : run.d_bias.host()) EXPECT_EQ(v, 0);
    }
  }
}

TYPED_TEST(CudaKernelsContract, ALaunchErrorNamesTheKernel) {
  const Problem<TypeParam> p({2, 4, 8, Layout::kContiguous}, kLeaky);
  Run<TypeParam> run(p);
  EXPECT_NE(cudaSetDevice(1 << 20), cudaSuccess);  // leaves an error for the check after the launch to find
  try {
    run.statistics();
    FAIL() << "no exception";
  } catch (const std::runtime_error& error) {
    EXPECT_NE(std::string(error.what()).find("statistics_kernel"), std::string::npos) << error.what();
    EXPECT_NE(std::string(error.what()).find("cudaErrorInvalidDevice"), std::string::npos) << error.what();
  }
}

}  // namespace
}  // namespace iabn::test
