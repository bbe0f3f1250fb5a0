#include "iabn/train/distributed.h"

#include <cstdlib>
#include <optional>
#include <stdexcept>

#include <ATen/ATen.h>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include "iabn/train/device.h"

namespace iabn::train {
namespace {

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

// As torch.distributed's env:// rendezvous: torchrun's agent keeps a store of its own, shared by all restarts.
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
                             " (MASTER_ADDR, MASTER_PORT): " + error.what());
  }
  const std::string attempt = variable("TORCHELASTIC_RESTART_COUNT").value_or("0");
  return c10::make_intrusive<c10d::PrefixStore>("iabn/attempt_" + attempt, store);
}

}  // namespace

std::string World::device_name(const std::string& asked) const {
  if (!group || asked.find(':') != std::string::npos) return asked;
  return choose_device(asked).is_cuda() ? "cuda:" + std::to_string(local_rank) : asked;
}

bool World::any(bool here) const {
  if (!group) return here;
  at::Tensor flag = at::full({1}, here ? 1 : 0, at::kInt);  // on the CPU: through Gloo, beside a GPU's work
  std::vector<at::Tensor> list{flag};
  group->allreduce(list)->wait();
  return flag.item<int>() > 0;
}

World join_world(c10::DeviceType device, std::chrono::milliseconds timeout) {
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
  if (device == c10::kCUDA) {
    world.group->setBackend(c10::kCUDA, Backend::NCCL, make_nccl(under("nccl"), world.rank, world.size, timeout));
    world.group->setDefaultBackend(Backend::NCCL);
  }
  return world;
}

}  // namespace iabn::train
