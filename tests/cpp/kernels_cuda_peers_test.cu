// The directions over several processes (peers.h), each played by a stream of one device, beside the float64 oracle of
// the whole batch: however the batch is split, whichever kernels a process takes.

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "iabn/kernels/cuda/peers.h"
#include "iabn/kernels/cuda/slab.h"
#include "kernels_cuda_expect.h"

namespace iabn::test {
namespace {

using kernels::BFloat16;
using kernels::Half;
using kernels::cuda::PeerCard;
using kernels::cuda::Peers;

template <class T>
class CudaPeers : public SlabTest<T> {};
using StorageTypes = testing::Types<float, Half, BFloat16>;
TYPED_TEST_SUITE(CudaPeers, StorageTypes);

constexpr int64_t kMostChannels = 512;
constexpr float kRunningMean = 0.5f, kRunningVar = 2.f;
constexpr int64_t kBatches = 4;

/// Areas for any number of processes, which all of them leave as they found them; one set for all tests.
Peers peers_of(int rank, int size) {
  static std::vector<std::vector<uint64_t*>> areas(Peers::kMost + 1);
  auto& those = areas[static_cast<size_t>(size)];
  PeerCard card;
  while (static_cast<int>(those.size()) < size) {
    those.push_back(kernels::cuda::new_peer_area(kMostChannels, size, card));
  }
  int device = 0, multiprocessors = 0;
  cuda_check(cudaGetDevice(&device));
  cuda_check(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device));
  Peers peers;
  std::copy(those.begin(), those.end(), peers.areas);
  peers.rank = rank;
  peers.size = size;
  peers.spare = multiprocessors - multiprocessors / size;  // all run at the same time
  peers.channels = kMostChannels;
  peers.timeout_ns = 5'000'000'000;
  return peers;
}

/// A process's part of a problem along N.
template <class T>
struct Part {
  Shape shape;
  int64_t first;  // element
  Peers peers;
  ActivationSpec act;
  DeviceArray<T> x, d_z, d_x;
  DeviceArray<float> weight, bias, mean, var, count, d_weight, d_bias, running_mean, running_var;
  DeviceArray<int64_t> batches;
  DeviceArray<char> workspace;
  cudaStream_t stream = nullptr;
  double momentum;

  Part(const Problem<T>& p, int64_t first_image, int64_t images, const Peers& peers_, double momentum_)
      : shape{images, p.shape.c, p.shape.s, p.shape.layout},
        first(first_image * p.shape.c * p.shape.s),
        peers(peers_),
        act(p.act),
        x(slice(p.x)),
        d_z(slice(p.d_z)),
        d_x(x.size()),
        weight(p.weight),
        bias(p.bias),
        mean(p.weight.size()),
        var(p.weight.size()),
        count(1),
        d_weight(p.weight.size()),
        d_bias(p.weight.size()),
        running_mean(std::vector<float>(p.weight.size(), kRunningMean)),
        running_var(std::vector<float>(p.weight.size(), kRunningVar)),
        batches(std::vector<int64_t>{kBatches}),
        workspace(kernels::cuda::peer_workspace_bytes<T>(shape, peers_)),
        momentum(momentum_) {
    cuda_check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    // A kernel's first launch loads it, and a stream's allocates, which may wait for all kernels of this process: not
    // while those of the other parts wait for this one. So once as a group of one.
    peers = peers_of(0, 1);
    peers.spare = peers_.spare;
    forward();
    backward();
    cuda_check(cudaStreamSynchronize(stream));
    peers = peers_;
    x.set(slice(p.x));
    running_mean.set(std::vector<float>(p.weight.size(), kRunningMean));
    running_var.set(std::vector<float>(p.weight.size(), kRunningVar));
    batches.set({kBatches});
  }
  ~Part() { cudaStreamDestroy(stream); }
  Part(const Part&) = delete;
  Part& operator=(const Part&) = delete;

  std::vector<T> slice(const std::vector<T>& all) const {
    return {all.begin() + first, all.begin() + first + shape.numel()};
  }
  kernels::Affine<float> affine() const { return {weight.get(), bias.get(), kernels::GammaMode::kSigned, 1e-5f}; }
  void forward() {
    kernels::cuda::peer_forward<T>(x.get(), shape, affine(), act,
                                   {running_mean.get(), running_var.get(), batches.get(), momentum}, mean.get(),
                                   var.get(), count.get(), peers, workspace.get(), stream);
  }
  void backward() {
    kernels::cuda::peer_backward<T>(x.get(), d_z.get(), d_x.get(), shape, count.get(), var.get(), affine(), act,
                                    d_weight.get(), d_bias.get(), peers, workspace.get(), stream);
  }
};

template <class T>
using Parts = std::vector<std::unique_ptr<Part<T>>>;

template <class T>
Parts<T> split(const Problem<T>& p, const std::vector<int64_t>& images, double momentum = 0.25) {
  Parts<T> parts;
  int64_t first = 0;
  for (const int64_t n : images) {
    parts.push_back(std::make_unique<Part<T>>(
        p, first, n, peers_of(static_cast<int>(parts.size()), static_cast<int>(images.size())), momentum));
    first += n;
  }
  return parts;
}

template <class T>
void synchronize(const Parts<T>& parts) {
  for (const auto& part : parts) cuda_check(cudaStreamSynchronize(part->stream));
}

/// The results of all parts as one run over the whole batch.
template <class T>
void expect_whole(const Problem<T>& p, const Parts<T>& parts) {
  Run<T> run(p);
  std::vector<float> d_weight(p.weight.size()), d_bias(p.weight.size());
  const auto add = [](std::vector<float>& sum, const std::vector<float>& more) {
    std::transform(sum.begin(), sum.end(), more.begin(), sum.begin(), std::plus<>());
  };
  const std::vector<float> mean = parts[0]->mean.host(), var = parts[0]->var.host();
  for (const auto& part : parts) {
    const size_t bytes = part->x.size() * sizeof(T);
    cuda_check(cudaMemcpy(run.x.get() + part->first, part->x.get(), bytes, cudaMemcpyDeviceToDevice));
    cuda_check(cudaMemcpy(run.d_x.get() + part->first, part->d_x.get(), bytes, cudaMemcpyDeviceToDevice));
    add(d_weight, part->d_weight.host());
    add(d_bias, part->d_bias.host());
    EXPECT_TRUE(same_bits(part->mean.host(), mean));
    EXPECT_TRUE(same_bits(part->var.host(), var));
    EXPECT_EQ(part->count.host()[0], static_cast<float>(p.shape.count()));
    EXPECT_EQ(part->batches.host()[0], kBatches + 1);
    const double count = static_cast<double>(p.shape.count());
    const std::vector<float> running_mean = part->running_mean.host(), running_var = part->running_var.host();
    const double factor = part->momentum < 0 ? 1.0 / (kBatches + 1) : part->momentum;
    for (size_t c = 0; c < mean.size(); ++c) {
      EXPECT_NEAR(running_mean[c], (1 - factor) * kRunningMean + factor * mean[c], 1e-6);
      EXPECT_NEAR(running_var[c], (1 - factor) * kRunningVar + factor * var[c] * count / (count - 1), 1e-5);
    }
  }
  run.mean.set(mean);
  run.var.set(var);
  run.d_weight.set(d_weight);
  run.d_bias.set(d_bias);
  expect_forward(p, run);
  run.backward_reduce();
  expect_backward(p, run);
}

template <class T>
void forward_and_backward(const Parts<T>& parts) {
  for (const auto& part : parts) part->forward();
  for (const auto& part : parts) part->backward();
}

std::string name_of(const std::vector<int64_t>& images) {
  std::string text = " images";
  for (const int64_t n : images) text += " " + std::to_string(n);
  return text;
}

struct PeerShape {
  Shape shape;
  bool on_chip;  // the slab kernels take it, else the two passes
};

template <class T>
std::vector<PeerShape> peer_shapes() {
  constexpr int64_t v = 16 / static_cast<int64_t>(sizeof(T));
  const Layout last = Layout::kChannelsLast, contiguous = Layout::kContiguous;
  return {{{8, 8 * v, 196, last}, true},  {{8, 33 * v, 49, last}, true},      {{8, 16 * v, 784, last}, true},
          {{8, v + 1, 30, last}, false},  {{8, 5, 98 * v, contiguous}, true}, {{8, 40, 6 * v, contiguous}, true},
          {{8, 7, 49, contiguous}, false}};
}

TYPED_TEST(CudaPeers, AnySplitGivesWhatTheWholeBatchGives) {
  const std::vector<std::vector<int64_t>> splits{{8}, {4, 4}, {7, 1}, {8, 0}, {3, 0, 5}};
  for (const auto& [shape, on_chip] : peer_shapes<TypeParam>()) {
    const Shape half{4, shape.c, shape.s, shape.layout};
    const int spare = peers_of(0, 2).spare;
    EXPECT_EQ(kernels::cuda::slab_plan(half, sizeof(TypeParam), 0, kernels::cuda::Pass::kForward, spare).has_value(),
              on_chip);
    EXPECT_EQ(kernels::cuda::slab_plan(half, sizeof(TypeParam), 0, kernels::cuda::Pass::kBackward, spare).has_value(),
              on_chip);
    for (const ActivationSpec& act : {kLeaky, kElu}) {
      const Problem<TypeParam> p(shape, act);
      for (const std::vector<int64_t>& images : splits) {
        SCOPED_TRACE(describe(shape, act) + name_of(images));
        const auto parts = split(p, images);
        forward_and_backward(parts);
        synchronize(parts);
        expect_whole(p, parts);
        if (this->HasFatalFailure()) return;
      }
    }
  }
}

/// A layer's whole batch of one value per channel, or of none, changes no running statistics and no counter.
TYPED_TEST(CudaPeers, TooFewValuesCountNowhere) {
  const Problem<TypeParam> p({1, 64, 1, Layout::kChannelsLast}, kLeaky);
  for (const std::vector<int64_t>& images : std::vector<std::vector<int64_t>>{{1, 0}, {0, 0}}) {
    const auto parts = split(p, images);
    forward_and_backward(parts);
    synchronize(parts);
    for (const auto& part : parts) {
      EXPECT_EQ(part->count.host()[0], static_cast<float>(images[0]));
      EXPECT_EQ(part->batches.host()[0], kBatches);
      for (const float mean : part->running_mean.host()) EXPECT_EQ(mean, kRunningMean);
      for (const float var : part->running_var.host()) EXPECT_EQ(var, kRunningVar);
    }
  }
}

/// A group of one gives what the local layer gives on as many multiprocessors, to the last bit.
TYPED_TEST(CudaPeers, AGroupOfOneIsTheLocalLayer) {
  const Problem<TypeParam> p({16, 128, 196, Layout::kChannelsLast}, kLeaky);
  const auto parts = split(p, {16});
  forward_and_backward(parts);
  synchronize(parts);
  Run<TypeParam> run(p);
  run.forward();
  run.backward();
  EXPECT_TRUE(same_bits(parts[0]->x.host(), run.x.host()));
  EXPECT_TRUE(same_bits(parts[0]->d_x.host(), run.d_x.host()));
  EXPECT_TRUE(same_bits(parts[0]->var.host(), run.var.host()));
  EXPECT_TRUE(same_bits(parts[0]->d_weight.host(), run.d_weight.host()));
}

TYPED_TEST(CudaPeers, ACumulativeAverageCountsOnce) {
  const Problem<TypeParam> p({8, 64, 49, Layout::kChannelsLast}, kLeaky);
  const auto parts = split(p, {4, 4}, /*momentum=*/-1);
  forward_and_backward(parts);
  synchronize(parts);
  expect_whole(p, parts);
}

/// Many launches one after the other, and as graphs that are replayed: words of one launch must not meet the next.
TYPED_TEST(CudaPeers, ManyLaunchesGiveTheSameBits) {
  const Problem<TypeParam> p({6, 96, 196, Layout::kChannelsLast}, kLeaky);
  const auto parts = split(p, {4, 2});
  std::vector<std::unique_ptr<DeviceArray<TypeParam>>> inputs;
  for (const auto& part : parts) inputs.push_back(std::make_unique<DeviceArray<TypeParam>>(part->slice(p.x)));
  std::vector<cudaGraphExec_t> graphs;
  const auto once = [&](size_t i) {  // an odd number of exchanges: the halves change from replay to replay
    Part<TypeParam>& part = *parts[i];
    const size_t bytes = part.x.size() * sizeof(TypeParam);
    for (int pass = 0; pass < 2; ++pass) {
      cuda_check(cudaMemcpyAsync(part.x.get(), inputs[i]->get(), bytes, cudaMemcpyDeviceToDevice, part.stream));
      part.forward();
    }
    part.backward();
  };
  for (size_t i = 0; i < parts.size(); ++i) {
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t executable = nullptr;
    cuda_check(cudaStreamBeginCapture(parts[i]->stream, cudaStreamCaptureModeThreadLocal));
    once(i);
    cuda_check(cudaStreamEndCapture(parts[i]->stream, &graph));
    cuda_check(cudaGraphInstantiate(&executable, graph, 0));
    cuda_check(cudaGraphUpload(executable, parts[i]->stream));
    cuda_check(cudaGraphDestroy(graph));
    graphs.push_back(executable);
  }
  for (size_t i = 0; i < parts.size(); ++i) once(i);
  synchronize(parts);
  std::vector<std::vector<TypeParam>> d_x;
  for (const auto& part : parts) d_x.push_back(part->d_x.host());
  for (int round = 0; round < 50; ++round) {
    for (size_t i = 0; i < parts.size(); ++i) {
      if (round % 5 == 0) {
        once(i);
      } else {
        cuda_check(cudaGraphLaunch(graphs[i], parts[i]->stream));
      }
    }
  }
  synchronize(parts);
  for (size_t i = 0; i < parts.size(); ++i) EXPECT_TRUE(same_bits(parts[i]->d_x.host(), d_x[i])) << i;
  for (cudaGraphExec_t graph : graphs) cuda_check(cudaGraphExecDestroy(graph));
}

}  // namespace
}  // namespace iabn::test
