// The synchronised layer over real processes: every test starts copies of this program, which meet through Gloo.

#include <cstdlib>
#include <functional>
#include <map>
#include <sstream>

#include <gmock/gmock.h>
#include <netinet/in.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <torch/torch.h>
#include <unistd.h>

#include "iabn/models/network.h"
#include "iabn/nn/sync.h"
#include "iabn/train/build.h"
#include "iabn/train/distributed.h"
#include "tests/cpp/train_support.h"

extern char** environ;  // NOLINT

namespace iabn::test {
namespace {

using testing::HasSubstr;
using torch::Tensor;

constexpr int64_t kBatch = 8;

// What a worker is told, in its environment.
std::string told(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

// Sizes of the ranks' parts, "7,1".
std::vector<int64_t> parts(const std::string& text) {
  std::vector<int64_t> result;
  std::istringstream stream(text);
  for (std::string word; std::getline(stream, word, ',');) result.push_back(std::stoll(word));
  return result;
}

// This rank's part of the whole batch.
Tensor own_part(const Tensor& whole, const train::World& world) {
  const auto sizes = parts(told("IABN_TEST_PARTS"));
  int64_t begin = 0;
  for (int rank = 0; rank < world.rank; ++rank) begin += sizes[static_cast<size_t>(rank)];
  return whole.slice(0, begin, begin + sizes[static_cast<size_t>(world.rank)]).clone();
}

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

// Output, gradients and statistics of one pass.
int layer_worker(const train::World& world, const std::string& folder) {
  nn::InPlaceABNSync layer(layer_options());
  layer->to(torch::kDouble);
  fill(*layer);
  layer->set_group(world.group);
  const Tensor x = own_part(whole_input(), world).requires_grad_();
  const Tensor z = layer->forward(x.clone());
  (z * own_part(whole_gradient(), world)).sum().backward();
  sum_over_ranks(layer->weight.mutable_grad(), world);
  sum_over_ranks(layer->bias.mutable_grad(), world);
  torch::save(std::vector<Tensor>{z.detach(), x.grad(), layer->weight.grad(), layer->bias.grad(), layer->running_mean,
                                  layer->running_var, layer->num_batches_tracked},
              folder + "/" + std::to_string(world.rank));
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

int network_worker(const train::World& world, const std::string& folder) {
  nn::set_process_group(world.group);
  const auto network = train::build_network(network_config("sync"), torch::kCPU);
  network->to(torch::kDouble);
  nn::name_sync_layers(*network);
  const Tensor images = own_part(whole_images(), world), labels = own_part(whole_labels(), world);
  for (int i = 0; i < 10; ++i) {
    step(*network, share_of_loss(*network, images, labels, world.size), [&](Tensor& gradient) {
      sum_over_ranks(gradient, world);
      gradient.div_(world.size);
    });
  }
  torch::save(weights_of(*network), folder + "/" + std::to_string(world.rank));
  return 0;
}

// Prints what it was told to do wrong.
int wrong_worker(const train::World& world, const std::string& what) {
  try {
    nn::InPlaceABNSync layer(nn::ABNOptions(what == "channels" && world.rank == 1 ? 5 : 3));
    layer->name = "mod1.bn1";
    layer->set_group(world.group);
    if (what == "absent" && world.rank == 1) return 0;
    if (what == "late") {  // after the check of the first pass, in the steady state
      layer->forward(torch::randn({4, 3, 2, 2}));
      if (world.rank == 1) ::_exit(0);
    }
    layer->forward(torch::randn({4, layer->options.num_features(), 2, 2}));
  } catch (const c10::Error& error) {
    std::cout << "rank " << world.rank << ": " << error.what_without_backtrace() << std::endl;
    return 3;
  }
  return 0;
}

int free_port() {
  const int socket = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  ::bind(socket, reinterpret_cast<sockaddr*>(&address), size);
  ::getsockname(socket, reinterpret_cast<sockaddr*>(&address), &size);
  ::close(socket);
  return ntohs(address.sin_port);
}

struct Job {
  std::vector<int> codes;
  std::string output;
};

// One copy of this program per rank.
Job run(const std::string& worker, const std::string& part_sizes, const std::string& argument) {
  const int ranks = static_cast<int>(parts(part_sizes).size()), port = free_port();
  TemporaryFolder folder("sync_output");
  std::vector<pid_t> processes;
  for (int rank = 0; rank < ranks; ++rank) {
    const auto set = [](const char* name, const std::string& value) { ::setenv(name, value.c_str(), 1); };
    set("IABN_TEST_WORKER", worker);
    set("IABN_TEST_PARTS", part_sizes);
    set("IABN_TEST_ARGUMENT", argument);
    set("RANK", std::to_string(rank));
    set("LOCAL_RANK", std::to_string(rank));
    set("WORLD_SIZE", std::to_string(ranks));
    set("MASTER_ADDR", "127.0.0.1");
    set("MASTER_PORT", std::to_string(port));
    set("OMP_NUM_THREADS", "1");
    posix_spawn_file_actions_t actions;
    ::posix_spawn_file_actions_init(&actions);
    const std::string path = (folder.path() / std::to_string(rank)).string();
    ::posix_spawn_file_actions_addopen(&actions, 1, path.c_str(), O_WRONLY | O_CREAT, 0600);
    ::posix_spawn_file_actions_adddup2(&actions, 1, 2);
    std::string self = "/proc/self/exe";
    char* arguments[] = {self.data(), nullptr};
    pid_t process = 0;
    EXPECT_EQ(::posix_spawn(&process, self.c_str(), &actions, nullptr, arguments, environ), 0);
    ::posix_spawn_file_actions_destroy(&actions);
    processes.push_back(process);
  }
  Job job;
  for (int rank = 0; rank < ranks; ++rank) {
    int status = 0;
    ::waitpid(processes[static_cast<size_t>(rank)], &status, 0);
    job.codes.push_back(WIFEXITED(status) ? WEXITSTATUS(status) : -1);
    job.output += read_file(folder.path() / std::to_string(rank));
  }
  return job;
}

std::vector<std::vector<Tensor>> results(const std::filesystem::path& folder, size_t ranks) {
  std::vector<std::vector<Tensor>> all(ranks);
  for (size_t rank = 0; rank < ranks; ++rank) torch::load(all[rank], (folder / std::to_string(rank)).string());
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
  for (const char* split : {"4,4", "7,1", "8,0", "3,0,5"}) {
    SCOPED_TRACE(split);
    TemporaryFolder folder("sync_layer");
    const Job job = run("layer", split, folder.path().string());
    ASSERT_THAT(job.codes, testing::Each(0)) << job.output;
    const auto ranks = results(folder.path(), job.codes.size());
    std::vector<Tensor> outputs, gradients;
    for (const auto& rank : ranks) {
      outputs.push_back(rank[0]);
      gradients.push_back(rank[1]);
    }
    // Sums of 80 values in another order.
    expect_near(torch::cat(outputs), z.detach(), 1e-13, "z");
    expect_near(torch::cat(gradients), x.grad(), 1e-12, "d_x");
    for (const auto& rank : ranks) {
      expect_near(rank[2], reference->weight.grad(), 1e-12, "d_weight");
      expect_near(rank[3], reference->bias.grad(), 1e-12, "d_bias");
      expect_near(rank[4], reference->running_mean, 1e-13, "running_mean");
      expect_near(rank[5], reference->running_var, 1e-13, "running_var");
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
  for (const char* split : {"4,4", "7,1", "8,0"}) {
    SCOPED_TRACE(split);
    TemporaryFolder folder("sync_network");
    const Job job = run("network", split, folder.path().string());
    ASSERT_THAT(job.codes, testing::Each(0)) << job.output;
    for (const auto& rank : results(folder.path(), job.codes.size())) {
      ASSERT_EQ(rank.size(), expected.size());
      for (size_t i = 0; i < expected.size(); ++i) {
        expect_near(rank[i].to(torch::kDouble), expected[i].to(torch::kDouble), 1e-10, std::to_string(i));
      }
    }
  }
}

TEST(InPlaceABNSyncTest, AnotherLayerOnARankIsNamedOnAll) {
  const Job job = run("wrong", "4,4", "channels");
  EXPECT_THAT(job.codes, testing::Each(3)) << job.output;
  EXPECT_THAT(job.output, testing::AllOf(HasSubstr("rank 0 of the group has come to mod1.bn1 (3 channels, Float"),
                                         HasSubstr("rank 1 to mod1.bn1 (5 channels, Float")));
}

TEST(InPlaceABNSyncTest, ARankThatStaysAwayIsNamedWithinTheTimeout) {
  const Job job = run("wrong", "4,4", "absent");
  EXPECT_EQ(job.codes[0], 3);
  EXPECT_THAT(job.output, HasSubstr("gamma 0): rank 0 of the group waited in vain for rank 1"));
}

TEST(InPlaceABNSyncTest, ARankThatEndsLaterIsNoticedByTheCollective) {
  const Job job = run("wrong", "4,4", "late");
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

int worker_main() {
  const auto world = train::join_world(c10::kCPU, std::chrono::seconds(5));
  const std::string worker = told("IABN_TEST_WORKER"), argument = told("IABN_TEST_ARGUMENT");
  if (worker == "layer") return layer_worker(world, argument);
  if (worker == "network") return network_worker(world, argument);
  return wrong_worker(world, argument);
}

}  // namespace
}  // namespace iabn::test

int main(int argc, char** argv) {
  if (std::getenv("IABN_TEST_WORKER") != nullptr) return iabn::test::worker_main();
  testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
