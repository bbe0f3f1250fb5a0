// What the blocks of the slab kernels exchange (exact_sums.cuh) and where (exchange_area.h): sums of many elements, and
// what a launch leaves to the next one, on streams side by side and in graphs.

#include <gtest/gtest.h>

#include <memory>
#include <utility>
#include <vector>

#include "kernels_cuda_expect.h"

namespace iabn::test {
namespace {

using kernels::BFloat16;
using kernels::Half;

template <class T>
class CudaExchange : public SlabTest<T> {};
using StorageTypes = testing::Types<float, Half, BFloat16>;
TYPED_TEST_SUITE(CudaExchange, StorageTypes);

cudaStream_t new_stream() {
  cudaStream_t stream;
  cuda_check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  return stream;
}

cudaGraphExec_t end_capture(cudaStream_t stream) {
  cudaGraph_t graph;
  cudaGraphExec_t executable;
  cuda_check(cudaStreamEndCapture(stream, &graph));
  cuda_check(cudaGraphInstantiate(&executable, graph, 0));
  cuda_check(cudaGraphDestroy(graph));
  return executable;
}

/// 99 and 101 in turns, but the last channel is constant.
template <class T>
__global__ void fill(T* x, int64_t size, int64_t channels) {
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < size; i += int64_t{gridDim.x} * blockDim.x) {
    const bool constant = i % channels == channels - 1;
    x[i] = T(constant ? 9984.f : i / channels % 2 == 0 ? 99.f : 101.f);
  }
}

/// More elements per channel than float32 can count.
TYPED_TEST(CudaExchange, ManyElementsOfALargeMean) {
  constexpr int64_t n = 3, s = 2401 * 2401, c = 128 / static_cast<int64_t>(sizeof(TypeParam)), count = n * s;
  static_assert(count > 1 << 24 && count % 2 == 1);
  const Problem<TypeParam> p({1, c, 1, Layout::kChannelsLast}, kIdentity);
  const kernels::Shape shape{n, c, s, Layout::kChannelsLast};
  const DeviceArray<TypeParam> x(shape.numel());
  fill<<<1024, 256>>>(x.get(), shape.numel(), c);
  const DeviceArray<char> workspace(kernels::cuda::workspace_bytes<TypeParam>(shape));
  Run<TypeParam> run(p);
  ASSERT_TRUE(kernels::cuda::slab_plan(shape, sizeof(TypeParam), 0, kernels::cuda::Pass::kForward));
  kernels::cuda::forward(x.get(), shape, run.affine(), p.act, {}, run.mean.get(), run.var.get(), workspace.get(),
                         nullptr);
  const auto mean = run.mean.host(), var = run.var.host();
  for (int64_t k = 0; k < c - 1; ++k) {
    EXPECT_NEAR(mean[k], 100 - 1.0 / count, 1e-5);
    EXPECT_NEAR(var[k], 1, 1e-5);
  }
  EXPECT_EQ(mean[c - 1], 9984.f);
  EXPECT_EQ(var[c - 1], 0.f);
  for (const int64_t row : {int64_t{0}, count / 2, count - 1}) {
    TypeParam z;
    cuda_check(cudaMemcpy(&z, x.get() + row * c + c - 1, sizeof(z), cudaMemcpyDeviceToHost));
    EXPECT_EQ(float(z), float(TypeParam(p.bias[c - 1]))) << row;
  }
}

/// Large and small areas in turns: every launch clears what the one before has used.
TYPED_TEST(CudaExchange, LaunchesOfDifferentSizeInTurns) {
  std::vector<std::unique_ptr<Problem<TypeParam>>> problems;
  std::vector<std::unique_ptr<Run<TypeParam>>> runs;
  std::vector<std::vector<TypeParam>> z, d_x;
  for (const int64_t c : {2048, 16, 512, 8192, 64}) {  // 8192: more than fit the kept area
    problems.push_back(std::make_unique<Problem<TypeParam>>(kernels::Shape{16, c, 49, Layout::kChannelsLast}, kLeaky));
    runs.push_back(std::make_unique<Run<TypeParam>>(*problems.back()));
  }
  for (int launch = 0; launch < 40; ++launch) {
    const size_t which = launch * 7 % 5;
    Run<TypeParam>& run = *runs[which];
    run.x.set(problems[which]->x);
    run.forward();
    run.backward();
    if (launch < 5) {
      z.push_back(run.x.host());
      d_x.push_back(run.d_x.host());
      expect_forward(*problems[which], run);
    } else {
      EXPECT_TRUE(same_bits(run.x.host(), z[launch % 5]));
      EXPECT_TRUE(same_bits(run.d_x.host(), d_x[launch % 5]));
    }
  }
}

/// Two graphs captured on one stream and replayed on two others at the same time, while a third stream runs eagerly.
TYPED_TEST(CudaExchange, GraphsOfOneStreamReplaySideBySide) {
  const Problem<TypeParam> p({16, 64, 784, Layout::kChannelsLast}, kLeaky);
  Run<TypeParam> want(p), eager(p), first(p), second(p);
  want.forward();
  want.backward();
  cuda_check(cudaDeviceSynchronize());
  const auto d_x = want.d_x.host();
  cudaStream_t streams[3];
  for (auto& stream : streams) stream = new_stream();
  cudaGraphExec_t graphs[2];
  Run<TypeParam>* captured[2] = {&first, &second};
  for (int i = 0; i < 2; ++i) {
    captured[i]->stream = streams[0];
    cuda_check(cudaStreamBeginCapture(streams[0], cudaStreamCaptureModeGlobal));
    captured[i]->forward();
    captured[i]->backward();
    graphs[i] = end_capture(streams[0]);
  }
  eager.stream = streams[0];
  for (int repeat = 0; repeat < 20; ++repeat) {
    for (Run<TypeParam>* run : {&eager, &first, &second}) {
      cuda_check(cudaMemcpy(run->x.get(), p.x.data(), p.x.size() * sizeof(TypeParam), cudaMemcpyHostToDevice));
    }
    cuda_check(cudaDeviceSynchronize());
    eager.forward();
    eager.backward();
    for (int i = 0; i < 2; ++i) cuda_check(cudaGraphLaunch(graphs[i], streams[1 + i]));
    cuda_check(cudaDeviceSynchronize());
    for (Run<TypeParam>* run : {&eager, &first, &second}) EXPECT_TRUE(same_bits(run->d_x.host(), d_x));
  }
  for (auto graph : graphs) cuda_check(cudaGraphExecDestroy(graph));
  for (auto stream : streams) cuda_check(cudaStreamDestroy(stream));
}

/// The launches of a graph share an area, which a later graph may get.
TYPED_TEST(CudaExchange, GraphsOfManyLaunchesOneAfterTheOther) {
  const Problem<TypeParam> p({16, 64, 784, Layout::kChannelsLast}, kLeaky);
  Run<TypeParam> want(p), run(p);
  want.forward();
  want.backward();
  cuda_check(cudaDeviceSynchronize());
  const auto d_x = want.d_x.host();
  const DeviceArray<TypeParam> x(p.x);
  run.stream = new_stream();
  for (const int backwards : {1, 2, 3, 2}) {
    cuda_check(cudaStreamBeginCapture(run.stream, cudaStreamCaptureModeGlobal));
    cuda_check(
        cudaMemcpyAsync(run.x.get(), x.get(), p.x.size() * sizeof(TypeParam), cudaMemcpyDeviceToDevice, run.stream));
    run.forward();
    for (int i = 0; i < backwards; ++i) run.backward();
    const cudaGraphExec_t executable = end_capture(run.stream);
    for (int repeat = 0; repeat < 5; ++repeat) {
      cuda_check(cudaMemsetAsync(run.d_x.get(), 0xff, d_x.size() * sizeof(TypeParam), run.stream));
      cuda_check(cudaGraphLaunch(executable, run.stream));
      if (repeat % 2 == 1) {  // eager launches in between
        cuda_check(cudaMemcpyAsync(run.x.get(), x.get(), p.x.size() * sizeof(TypeParam), cudaMemcpyDeviceToDevice,
                                   run.stream));
        run.forward();
        run.backward();
      }
      cuda_check(cudaStreamSynchronize(run.stream));
      EXPECT_TRUE(same_bits(run.d_x.host(), d_x));
    }
    cuda_check(cudaGraphLaunch(executable, run.stream));
    cuda_check(cudaGraphExecDestroy(executable));  // while it runs
  }
  cuda_check(cudaStreamSynchronize(run.stream));
  EXPECT_TRUE(same_bits(run.d_x.host(), d_x));
  cuda_check(cudaStreamDestroy(run.stream));
}

/// Layers on two branches of one graph, and more graphs than areas are kept for.
TYPED_TEST(CudaExchange, BranchesAndManyGraphs) {
  const Problem<TypeParam> p({16, 64, 784, Layout::kChannelsLast}, kLeaky);
  Run<TypeParam> want(p), trunk(p), branch(p);
  want.forward();
  want.backward();
  cuda_check(cudaDeviceSynchronize());
  const auto d_x = want.d_x.host();
  trunk.stream = new_stream();
  branch.stream = new_stream();
  cudaEvent_t fork, join;
  cuda_check(cudaEventCreateWithFlags(&fork, cudaEventDisableTiming));
  cuda_check(cudaEventCreateWithFlags(&join, cudaEventDisableTiming));
  const DeviceArray<TypeParam> x(p.x);
  std::vector<cudaGraphExec_t> graphs;
  for (int i = 0; i < 70; ++i) {
    cuda_check(cudaStreamBeginCapture(trunk.stream, cudaStreamCaptureModeGlobal));
    cuda_check(cudaEventRecord(fork, trunk.stream));
    cuda_check(cudaStreamWaitEvent(branch.stream, fork));
    for (Run<TypeParam>* run : {&trunk, &branch}) {
      cuda_check(cudaMemcpyAsync(run->x.get(), x.get(), p.x.size() * sizeof(TypeParam), cudaMemcpyDeviceToDevice,
                                 run->stream));
      run->forward();
      run->backward();
    }
    cuda_check(cudaEventRecord(join, branch.stream));
    cuda_check(cudaStreamWaitEvent(trunk.stream, join));
    graphs.push_back(end_capture(trunk.stream));
  }
  for (const size_t i : {0, 31, 69, 0}) {
    for (Run<TypeParam>* run : {&trunk, &branch}) {
      cuda_check(cudaMemsetAsync(run->d_x.get(), 0xff, d_x.size() * sizeof(TypeParam), trunk.stream));
    }
    cuda_check(cudaGraphLaunch(graphs[i], trunk.stream));
    cuda_check(cudaStreamSynchronize(trunk.stream));
    EXPECT_TRUE(same_bits(trunk.d_x.host(), d_x));
    EXPECT_TRUE(same_bits(branch.d_x.host(), d_x));
  }
  for (auto graph : graphs) cuda_check(cudaGraphExecDestroy(graph));
  cuda_check(cudaEventDestroy(fork));
  cuda_check(cudaEventDestroy(join));
  cuda_check(cudaStreamDestroy(trunk.stream));
  cuda_check(cudaStreamDestroy(branch.stream));
}

}  // namespace
}  // namespace iabn::test
