// The synchronised layer over real processes: every test starts copies of this program, which meet through Gloo, or
// with `--device cuda` through NCCL, a GPU each; tests of more processes than there are GPUs are skipped.

#include <cstdlib>
#include <functional>
#include <thread>

#include <gmock/gmock.h>
#include <torch/torch.h>
#include <unistd.h>
#include <torch/csrc/distributed/c10d/HashStore.hpp>

#include "iabn/models/network.h"
#include "iabn/nn/functional.h"
#include "iabn/nn/peers.h"
#include "iabn/nn/sync.h"
#include "iabn/train/build.h"
#include "iabn/train/cuda_graph.h"
#include "iabn/train/distributed.h"
#include "tests/cpp/sync_support.h"
#include "tests/cpp/train_support.h"

namespace iabn::test {
namespace {

using testing::HasSubstr;
using torch::Tensor;

constexpr int64_t kBatch = 8;

constexpr std::chrono::seconds kTimeout{60};

nn::ABNOptions layer_options() { return nn::ABNOptions(3).activation("elu").activation_param(0.7); }

void fill(nn::NormActImpl& layer) {
  const torch::NoGradGuard no_grad;
  layer.weight.copy_(torch::tensor({1.5, -0.7, 0.3}));
  layer.bias.copy_(torch::tensor({0.1, -0.2, 0.4}));
}

Tensor whole_input() {
  torch::manual_seed(1);
  return torch::randn({kBatch, 3, 5, 2}, torch::kDouble) * 2 + 1;
}

Tensor whole_gradient() {
  torch::manual_seed(2);
  return torch::randn({kBatch, 3, 5, 2}, torch::kDouble);
}

void sum_over_ranks(Tensor& tensor, const train::World& world) {
  std::vector<Tensor> tensors{tensor};
  world.group->allreduce(tensors)->wait();
}

void save(const std::vector<Tensor>& tensors, const std::string& folder, const train::World& world) {
  std::vector<Tensor> on_cpu;
  for (const Tensor& tensor : tensors) on_cpu.push_back(tensor.cpu());
  torch::save(on_cpu, folder + "/" + std::to_string(world.rank));
}

// float64, or float32 through the GPUs' memory.
torch::Dtype dtype_of(const train::World& world, bool through_peers) {
  if (!through_peers) return torch::kDouble;
  const std::string reason = nn::use_peer_memory(world.group, world.local_rank);
  TORCH_CHECK(reason.empty(), reason);
  const auto options = torch::TensorOptions().device(device_of(world));
  TORCH_CHECK(nn::peers_of(world.group, torch::empty({2, 3}, options)));
  TORCH_CHECK(!nn::peers_of(world.group, torch::empty({2, 3}, options.dtype(torch::kDouble))));
  return torch::kFloat;
}

// Output, gradients and statistics of one pass.
int layer_worker(const train::World& world, const std::string& folder, bool through_peers) {
  const torch::Dtype dtype = dtype_of(world, through_peers);
  nn::InPlaceABNSync layer(layer_options());
  layer->to(device_of(world), dtype);
  fill(*layer);
  layer->set_group(world.group);
  const Tensor x = own_part(whole_input(), world).to(dtype).requires_grad_();
  const Tensor z = layer->forward(x.clone());
  (z * own_part(whole_gradient(), world).to(dtype)).sum().backward();
  sum_over_ranks(layer->weight.mutable_grad(), world);
  sum_over_ranks(layer->bias.mutable_grad(), world);
  save({z.detach(), x.grad(), layer->weight.grad(), layer->bias.grad(), layer->running_mean, layer->running_var,
        layer->num_batches_tracked},
       folder, world);
  return 0;
}

train::Config network_config(const char* bn_mode) {
  train::Config config = small_config(bn_mode);
  config.optimizer.learning_rate = 0.05;
  return config;
}

// The mean loss over the whole batch from this rank's images, times the number of ranks, as averaging undoes.
Tensor share_of_loss(models::Network& network, const Tensor& images, const Tensor& labels, int ranks) {
  const Tensor logits = network.forward(images.clone());
  const auto options = torch::nn::functional::CrossEntropyFuncOptions().reduction(torch::kSum);
  return torch::nn::functional::cross_entropy(logits, labels, options) * (double(ranks) / kBatch);
}

void step(models::Network& network, const Tensor& loss, const std::function<void(Tensor&)>& average) {
  for (auto& parameter : network.parameters()) parameter.mutable_grad().reset();
  loss.backward();
  const torch::NoGradGuard no_grad;
  for (auto& parameter : network.parameters()) {
    average(parameter.mutable_grad());
    parameter.sub_(0.05 * parameter.grad());
  }
}

Tensor whole_images() {
  torch::manual_seed(3);
  return torch::randn({kBatch, 1, 8, 8}, torch::kDouble);
}

Tensor whole_labels() { return torch::arange(kBatch) % 3; }

std::vector<Tensor> weights_of(models::Network& network) {
  std::vector<Tensor> result = network.parameters();
  for (const Tensor& buffer : network.buffers()) result.push_back(buffer);
  for (Tensor& tensor : result) tensor = tensor.detach();
  return result;
}

// Ten steps; `graphed`: three eager ones and seven replays of one CUDA graph.
int network_worker(const train::World& world, const std::string& folder, bool graphed, bool through_peers) {
  const torch::Dtype dtype = dtype_of(world, through_peers);
  nn::set_process_group(world.group);
  const auto network = train::build_network(network_config("sync"), device_of(world));
  network->to(dtype);
  nn::name_sync_layers(*network);
  const Tensor images = own_part(whole_images(), world).to(dtype), labels = own_part(whole_labels(), world);
  const auto one_step = [&] {
    step(*network, share_of_loss(*network, images, labels, world.size), [&](Tensor& gradient) {
      sum_over_ranks(gradient, world);
      gradient.div_(world.size);
    });
  };
  if (graphed) {
    train::CudaGraph graph(device_of(world));
    for (int i = 0; i < 3; ++i) graph.run(one_step);
    graph.capture(one_step);
    for (int i = 0; i < 7; ++i) graph.replay();
    torch::cuda::synchronize(world.local_rank);
  } else {
    for (int i = 0; i < 10; ++i) one_step();
  }
  save(weights_of(*network), folder, world);
  return 0;
}

// The synchronised path in a group of one process, beside the local layer: 0 where all is the same.
int alone_worker() {
  auto store = c10::make_intrusive<c10d::HashStore>();
  auto group = c10::make_intrusive<c10d::ProcessGroup>(store, 0, 1);
  using Backend = c10d::ProcessGroup::BackendType;
  const auto timeout = std::chrono::seconds(60);
  const torch::Device device = on_gpus() ? torch::Device(torch::kCUDA, 0) : torch::kCPU;
  if (on_gpus()) {
    group->setBackend(c10::kCUDA, Backend::NCCL, train::make_nccl(store, 0, 1, timeout));
    group->setDefaultBackend(Backend::NCCL);
  } else {
    group->setBackend(c10::kCPU, Backend::GLOO, train::make_gloo(store, 0, 1, timeout));
    group->setDefaultBackend(Backend::GLOO);
  }
  std::vector<std::vector<Tensor>> results;
  for (const bool synchronised : {false, true}) {
    nn::InPlaceABN layer(layer_options());
    layer->to(device, torch::kDouble);
    layer->num_batches_tracked = layer->num_batches_tracked.to(torch::kLong);
    fill(*layer);
    const Tensor x = whole_input().to(device).requires_grad_();
    nn::InPlaceABNFuncOptions function{true, 0.1, layer->options.eps(), nn::parse_activation("elu", 0.7)};
    const auto pass = [&](auto&& forward) {
      return forward(x.clone(), layer->weight, layer->bias, layer->running_mean, layer->running_var,
                     layer->num_batches_tracked, function);
    };
    const Tensor z = synchronised ? pass([&](auto&&... a) { return nn::inplace_abn_over_group(a..., group); })
                                  : pass([](auto&&... a) { return nn::inplace_abn(a...); });
    (z * whole_gradient().to(device)).sum().backward();
    results.push_back({z.detach(), x.grad(), layer->weight.grad(), layer->bias.grad(), layer->running_mean,
                       layer->running_var, layer->num_batches_tracked});
  }
  for (size_t i = 0; i < results[0].size(); ++i) {
    if (torch::allclose(results[0][i], results[1][i], 1e-12, 1e-13)) continue;
    std::cout << "result " << i << " differs" << std::endl;
    return 3;
  }
  group->shutdown();
  return 0;
}

// Prints what it was told to do wrong.
int wrong_worker(const train::World& world, const std::string& what) {
  try {
    nn::InPlaceABNSync layer(nn::ABNOptions(what == "channels" && world.rank == 1 ? 5 : 3));
    layer->name = "mod1.bn1";
    layer->to(device_of(world));
    layer->set_group(world.group);
    world.any(false);  // all have met: join_world may return while another rank still connects
    if (what == "absent" && world.rank == 1) {
      // On GPUs its end would end rank 0 before the timeout.
      if (on_gpus()) std::this_thread::sleep_for(kTimeout + std::chrono::seconds(30));
      return 0;
    }
    if (what == "absent" && !on_gpus()) world.group->getStore()->setTimeout(std::chrono::seconds(5));
    if (what == "late") {  // after the check of the first pass, in the steady state
      layer->forward(torch::randn({4, 3, 2, 2}, device_of(world)));
      if (world.rank == 1) ::_exit(0);
    }
    layer->forward(torch::randn({4, layer->options.num_features(), 2, 2}, device_of(world)));
    if (on_gpus()) torch::cuda::synchronize(world.local_rank);  // for ever, where the other has gone
  } catch (const c10::Error& error) {
    std::cout << "rank " << world.rank << ": " << error.what_without_backtrace() << std::endl;
    // Whoever ends first would end the other, on GPUs by the watch, else by the store that rank 0 has.
    if (what == "channels") {
      world.any(false);
      world.leave();
    }
    return 3;
  }
  return 0;
}

// Every way with every split; on CPUs those that need no GPU.
std::vector<std::pair<std::string, std::string>> ways(const std::vector<std::string>& names,
                                                      const std::vector<std::string>& splits) {
  std::vector<std::pair<std::string, std::string>> all;
  for (const std::string& name : names) {
    if (!on_gpus() && name != names.front()) continue;
    for (const std::string& split : splits) all.emplace_back(name, split);
  }
  return all;
}

void expect_near(const Tensor& got, const Tensor& want, double tolerance, const std::string& what) {
  ASSERT_EQ(got.sizes(), want.sizes()) << what;
  const double largest = (got - want).abs().max().item<double>();
  EXPECT_LE(largest, tolerance * std::max(1.0, want.abs().max().item<double>())) << what;
}

TEST(InPlaceABNSyncTest, RanksTogetherGiveWhatOneProcessGivesOnTheWholeBatch) {
  nn::InPlaceABN reference(layer_options());
  reference->to(torch::kDouble);
  fill(*reference);
  const Tensor x = whole_input().requires_grad_();
  const Tensor z = reference->forward(x.clone());
  (z * whole_gradient()).sum().backward();
  if (!can_run(2)) GTEST_SKIP() << "needs two GPUs";
  for (const auto& [way, split] : ways({"layer", "peer layer"}, {"4,4", "7,1", "8,0", "3,0,5"})) {
    SCOPED_TRACE(way + " " + split);
    if (!can_run(static_cast<int64_t>(parts(split).size()))) continue;
    TemporaryFolder folder("sync_layer");
    const Job job = run(way, split, folder.path().string());
    ASSERT_THAT(job.codes, testing::Each(0)) << job.output;
    const auto ranks = results(folder.path(), job.codes.size());
    std::vector<Tensor> outputs, gradients;
    for (const auto& rank : ranks) {
      outputs.push_back(rank[0]);
      gradients.push_back(rank[1]);
    }
    // Sums of 80 values in another order, in float64 or float32.
    const double once = way == "layer" ? 1e-13 : 1e-6, twice = 10 * once;
    expect_near(torch::cat(outputs), z.detach(), once, "z");
    expect_near(torch::cat(gradients), x.grad(), twice, "d_x");
    for (const auto& rank : ranks) {
      expect_near(rank[2], reference->weight.grad(), twice, "d_weight");
      expect_near(rank[3], reference->bias.grad(), twice, "d_bias");
      expect_near(rank[4], reference->running_mean, once, "running_mean");
      expect_near(rank[5], reference->running_var, once, "running_var");
      EXPECT_EQ(rank[6].item<int64_t>(), 1);
    }
  }
}

TEST(InPlaceABNSyncTest, TenStepsOfANetworkEqualOneProcess) {
  const auto reference = train::build_network(network_config("inplace"), torch::kCPU);
  reference->to(torch::kDouble);
  for (int i = 0; i < 10; ++i)
    step(*reference, share_of_loss(*reference, whole_images(), whole_labels(), 1), [](Tensor&) {});
  const auto expected = weights_of(*reference);
  if (!can_run(2)) GTEST_SKIP() << "needs two GPUs";
  for (const auto& [way, split] : ways({"network", "graph", "peer network", "peer graph"}, {"4,4", "7,1", "8,0"})) {
    SCOPED_TRACE(way + " " + split);
    TemporaryFolder folder("sync_network");
    const Job job = run(way, split, folder.path().string());
    ASSERT_THAT(job.codes, testing::Each(0)) << job.output;
    const double tolerance = way.starts_with("peer") ? 1e-4 : 1e-10;  // float32, float64
    for (const auto& rank : results(folder.path(), job.codes.size())) {
      ASSERT_EQ(rank.size(), expected.size());
      for (size_t i = 0; i < expected.size(); ++i) {
        expect_near(rank[i].to(torch::kDouble), expected[i].to(torch::kDouble), tolerance, std::to_string(i));
      }
    }
  }
}

// The synchronised path in a group of one process gives what the local layer gives.
TEST(InPlaceABNSyncTest, AGroupOfOneEqualsTheLocalLayer) {
  const Job job = run("alone", "8", "");
  EXPECT_THAT(job.codes, testing::Each(0)) << job.output;
}

TEST(InPlaceABNSyncTest, AnotherLayerOnARankIsNamedOnAll) {
  if (!can_run(2)) GTEST_SKIP() << "needs two GPUs";
  const Job job = run("wrong", "4,4", "channels");
  EXPECT_THAT(job.codes, testing::Each(3)) << job.output;
  EXPECT_THAT(job.output, testing::AllOf(HasSubstr("rank 0 of the group has come to mod1.bn1 (3 channels, Float"),
                                         HasSubstr("rank 1 to mod1.bn1 (5 channels, Float")));
}

TEST(InPlaceABNSyncTest, ARankThatStaysAwayIsNamedWithinTheTimeout) {
  if (!can_run(2)) GTEST_SKIP() << "needs two GPUs";
  const Job job = run("wrong", "4,4", "absent");
  EXPECT_EQ(job.codes[0], 3);
  EXPECT_THAT(job.output, HasSubstr("gamma 0): rank 0 of the group waited in vain for rank 1"));
}

TEST(InPlaceABNSyncTest, ARankThatEndsLaterIsNoticedByTheCollective) {
  if (!can_run(2)) GTEST_SKIP() << "needs two GPUs";
  const Job job = run("wrong", "4,4", "late");
  if (on_gpus()) {  // by the watch: the collective waits on the GPU, where nothing notices
    EXPECT_EQ(job.codes[0], 1);
    EXPECT_THAT(job.output, HasSubstr("rank 0 of 2 could not exchange data with the others: rank 1 has ended"));
    return;
  }
  EXPECT_EQ(job.codes[0], 3);
  EXPECT_THAT(job.output, HasSubstr("mod1.bn1, forward: rank 0 of the group of 2 could not exchange data"));
}

TEST(InPlaceABNSyncTest, WithoutAGroupItIsTheLocalLayer) {
  nn::InPlaceABNSync synchronised(layer_options());
  nn::InPlaceABN local(layer_options());
  fill(*synchronised);
  fill(*local);
  const Tensor x = whole_input().to(torch::kFloat);
  EXPECT_TRUE(torch::equal(synchronised->forward(x.clone()), local->forward(x.clone())));
  EXPECT_TRUE(torch::equal(synchronised->running_var, local->running_var));
}

TEST(JoinWorld, SaysWhatIsMissing) {
  for (const char* name : {"WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"}) ::unsetenv(name);
  EXPECT_EQ(train::join_world(c10::kCPU).size, 1);
  ::setenv("WORLD_SIZE", "2", 1);
  const auto text = [] {
    try {
      train::join_world(c10::kCPU);
    } catch (const std::invalid_argument& error) {
      return std::string(error.what());
    }
    return std::string("no error");
  };
  EXPECT_THAT(text(), HasSubstr("RANK is not: start the job with torchrun"));
  ::setenv("RANK", "2", 1);
  EXPECT_THAT(text(), HasSubstr("RANK must be a number from 0 to 1, got \"2\""));
}

TEST(World, OnGpusExceptionsEndTheProcessWithTheirExitCodes) {
  train::World world;
  world.on_gpus = true;
  const auto fail = [&](const auto& error) { world.run([&] { throw error; }); };
  using testing::ExitedWithCode;
  EXPECT_EXIT(fail(std::runtime_error("went wrong")), ExitedWithCode(1), "iabn: error: went wrong");
  EXPECT_EXIT(fail(train::ConfigError("lr: wrong")), ExitedWithCode(2), "iabn: error: lr: wrong");
  EXPECT_EXIT(fail(std::invalid_argument("--scale 0")), ExitedWithCode(2), "iabn: error: --scale 0");
  world.on_gpus = false;
  EXPECT_THROW(fail(train::ConfigError("lr: wrong")), train::ConfigError);
}

int worker_main() {
  const std::string worker = told("IABN_TEST_WORKER"), argument = told("IABN_TEST_ARGUMENT");
  if (worker == "alone") return alone_worker();
  const auto type = on_gpus() ? c10::kCUDA : c10::kCPU;
  const bool peers = worker.starts_with("peer ");
  const auto world = train::join_world(type, kTimeout, peers ? nn::PeerMemoryOptions().spare_multiprocessors : 0);
  int code = 0;
  if (worker.ends_with("layer")) {
    code = layer_worker(world, argument, peers);
  } else if (worker.ends_with("network") || worker.ends_with("graph")) {
    code = network_worker(world, argument, worker.ends_with("graph"), peers);
  } else {
    return wrong_worker(world, argument);
  }
  world.leave();
  return code;
}

}  // namespace
}  // namespace iabn::test

int main(int argc, char** argv) {
  if (std::getenv("IABN_TEST_WORKER") != nullptr) return iabn::test::worker_main();
  testing::InitGoogleTest(&argc, argv);
  if (argc == 3 && std::string(argv[1]) == "--device") ::setenv("IABN_TEST_DEVICE", argv[2], 1);
  return RUN_ALL_TESTS();
}
