#include "iabn/train/distributed.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <optional>
#include <random>
#include <span>
#include <stdexcept>
#include <thread>
#include <utility>
#include <vector>

#include <ATen/ATen.h>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include "iabn/nn/error_text.h"
#include "iabn/nn/peers.h"
#include "iabn/train/config.h"
#include "iabn/train/device.h"
#include "iabn/train/neighbour_watch.h"

namespace iabn::train {
namespace {

using nn::text_of;

std::optional<std::string> variable(const char* name) {
  const char* value = std::getenv(name);
  return value != nullptr && *value != '\0' ? std::optional<std::string>(value) : std::nullopt;
}

std::string required(const char* name) {
  if (auto value = variable(name)) return *value;
  throw std::invalid_argument(std::string("WORLD_SIZE is set, but ") + name +
                              " is not: start the job with torchrun, or unset WORLD_SIZE to run alone");
}

int number(const char* name, int least, int most) {
  const std::string text = required(name);
  char* end = nullptr;
  const long value = std::strtol(text.c_str(), &end, 10);
  if (*end == '\0' && value >= least && value <= most) return static_cast<int>(value);
  throw std::invalid_argument(std::string(name) + " must be a number from " + std::to_string(least) + " to " +
                              std::to_string(most) + ", got \"" + text + "\"");
}

// A word that no earlier attempt of the job has used, the same on all ranks. torchrun's agents keep one store over all
// restarts, and each counts its own restarts, so neither tells one attempt from another. Rank 0 draws the word and
// gives it to whoever greets with a fresh word of his own, until all have confirmed.
std::string agree_on_word(const c10::intrusive_ptr<c10d::Store>& store, int rank, int size,
                          std::chrono::milliseconds timeout) {
  std::random_device random;
  const std::string own = std::to_string(random()) + "-" + std::to_string(random());
  const auto get = [&](const std::string& key) {
    const auto bytes = store->get(key);
    return std::string(bytes.begin(), bytes.end());
  };
  const auto put = [&](const std::string& key, const std::string& value) {
    store->set(key, std::vector<uint8_t>(value.begin(), value.end()));
  };
  if (rank != 0) {
    put("hello/" + std::to_string(rank), own);
    const std::string word = get("go/" + own);
    put("ack/" + word + "/" + std::to_string(rank), "1");
    return word;
  }
  const auto deadline = std::chrono::steady_clock::now() + timeout;
  std::vector<std::string> answered(static_cast<size_t>(size));
  for (int other = 1; other < size;) {
    const std::string hello = "hello/" + std::to_string(other);
    std::string& last = answered[static_cast<size_t>(other)];
    if (store->check({hello})) {
      if (const std::string greeting = get(hello); greeting != last) put("go/" + (last = greeting), own);
    }
    if (store->check({"ack/" + own + "/" + std::to_string(other)})) {
      ++other;
    } else if (std::chrono::steady_clock::now() > deadline) {
      throw std::runtime_error("rank 0 waited in vain for rank " + std::to_string(other) + " of " +
                               std::to_string(size));
    } else {
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
  }
  return own;
}

// As torch.distributed's env:// rendezvous: torchrun's agent has a store of its own.
c10::intrusive_ptr<c10d::Store> connect(int rank, int size, std::chrono::milliseconds timeout) {
  const std::string host = required("MASTER_ADDR");
  const bool agent = variable("TORCHELASTIC_USE_AGENT_STORE") == "True";
  c10d::TCPStoreOptions options;
  options.port = static_cast<uint16_t>(number("MASTER_PORT", 1, 65535));
  options.isServer = rank == 0 && !agent;
  options.numWorkers = static_cast<std::size_t>(size);
  options.timeout = timeout;
  c10::intrusive_ptr<c10d::Store> store;
  try {
    store = c10::make_intrusive<c10d::TCPStore>(host, options);
  } catch (const std::exception& error) {
    throw std::runtime_error("rank " + std::to_string(rank) + " of " + std::to_string(size) +
                             " could not meet the others at " + host + ":" + std::to_string(options.port) +
                             " (MASTER_ADDR, MASTER_PORT): " + text_of(error));
  }
  const auto own = c10::make_intrusive<c10d::PrefixStore>("iabn", store);
  return c10::make_intrusive<c10d::PrefixStore>(agree_on_word(own, rank, size, timeout), own);
}

}  // namespace

std::string World::device_name(const std::string& asked) const {
  if (!group) return asked;
  if (asked.find(':') != std::string::npos) {
    throw std::invalid_argument("--device " + asked +
                                ": of several processes each takes its own GPU; use cuda or auto");
  }
  return choose_device(asked).is_cuda() ? "cuda:" + std::to_string(local_rank) : asked;
}

at::Tensor World::sum(const at::Tensor& values, std::chrono::milliseconds timeout) const {
  if (!group) return values.cpu();
  std::vector<at::Tensor> list{values.clone()};
  c10d::AllreduceOptions options;
  if (timeout.count() > 0) options.timeout = timeout;
  try {
    group->allreduce(list, options)->wait();
    return list.front().cpu();
  } catch (const std::exception& error) {
    fail_exchange(error);
  }
}

std::vector<std::string> World::gather(const std::vector<std::string>& texts) const {
  if (!group) return texts;
  std::string own;  // each text with a zero behind it
  for (const std::string& text : texts) (own += text) += '\0';
  at::Tensor sizes = at::zeros({size}, at::kLong);
  sizes[rank] = static_cast<int64_t>(own.size());
  std::vector<at::Tensor> list{sizes};
  try {
    group->allreduce(list)->wait();
    const auto first = sizes.slice(0, 0, rank).sum().item<int64_t>();
    list = {at::zeros({sizes.sum().item<int64_t>()}, at::kByte)};
    if (list.front().numel() == 0) return {};
    std::copy(own.begin(), own.end(), list.front().mutable_data_ptr<uint8_t>() + first);
    group->allreduce(list)->wait();  // a sum, in which each byte is one rank's
  } catch (const std::exception& error) {
    fail_exchange(error);
  }
  std::vector<std::string> result(1);
  for (const uint8_t byte : std::span(list.front().const_data_ptr<uint8_t>(), list.front().numel())) {
    if (byte == 0) {
      result.emplace_back();
    } else {
      result.back() += static_cast<char>(byte);
    }
  }
  result.pop_back();
  return result;
}

void World::fail_exchange(const std::exception& error) const {
  throw std::runtime_error("rank " + std::to_string(rank) + " of " + std::to_string(size) +
                           " could not exchange data with the others; one of them has ended, whose own message "
                           "tells why, or stays away: " +
                           text_of(error));
}

// On the CPU: through Gloo, beside a GPU's work.
bool World::any(bool here) const { return sum(at::full({1}, here ? 1 : 0, at::kInt)).item<int>() > 0; }

void World::leave() const {
  if (!group) return;
  if (watch) watch->leave();
  group->shutdown();
}

void World::end_process(const std::exception& error) {
  std::fflush(stdout);
  std::fprintf(stderr, "iabn: error: %s\n", text_of(error).c_str());
  std::fflush(stderr);
  const bool is_usage = dynamic_cast<const ConfigError*>(&error) != nullptr ||
                        dynamic_cast<const std::invalid_argument*>(&error) != nullptr;
  std::_Exit(is_usage ? 2 : 1);  // as main() does
}

World join_world(c10::DeviceType device, std::chrono::milliseconds timeout, int nccl_blocks) {
  World world;
  if (!variable("WORLD_SIZE")) return world;
  world.size = number("WORLD_SIZE", 1, 1 << 20);
  if (world.size == 1) return world;
  world.rank = number("RANK", 0, world.size - 1);
  world.local_rank = number("LOCAL_RANK", 0, world.size - 1);
  const auto store = connect(world.rank, world.size, timeout);
  const auto under = [&](const char* name) { return c10::make_intrusive<c10d::PrefixStore>(name, store); };
  world.group = c10::make_intrusive<c10d::ProcessGroup>(under("group"), world.rank, world.size);
  using Backend = c10d::ProcessGroup::BackendType;
  world.group->setBackend(c10::kCPU, Backend::GLOO, make_gloo(under("gloo"), world.rank, world.size, timeout));
  world.group->setDefaultBackend(Backend::GLOO);
  world.on_gpus = device == c10::kCUDA;
  if (world.on_gpus) {
    const std::string all = std::to_string(world.size);
    const bool one_host = variable("LOCAL_WORLD_SIZE").value_or(all) == all;
    if (one_host && world.size <= nn::PeerMemoryOptions::kMostProcesses) world.nccl_blocks = nccl_blocks;
    world.group->setBackend(c10::kCUDA, Backend::NCCL,
                            make_nccl(under("nccl"), world.rank, world.size, timeout, world.nccl_blocks));
    world.group->setDefaultBackend(Backend::NCCL);
    world.watch = std::make_shared<NeighbourWatch>(make_gloo(under("watch"), world.rank, world.size, timeout), timeout);
  }
  return world;
}

}  // namespace iabn::train
