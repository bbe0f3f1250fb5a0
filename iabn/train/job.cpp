#include "iabn/train/job.h"

#include <array>
#include <cmath>
#include <functional>
#include <utility>
#include <vector>

#include <ATen/ATen.h>

#include "iabn/models/network.h"
#include "iabn/nn/peers.h"
#include "iabn/train/gradient_average.h"
#include "iabn/train/step.h"

namespace iabn::train {
namespace {

template <class Visit>
void for_each_tensor(const SnapshotParts& parts, Visit&& visit) {
  for (const auto& parameter : parts.network.parameters()) visit(parameter);
  for (const auto& buffer : parts.network.buffers()) visit(buffer);
  for (const auto& state : parts.step.optimizer().state()) {
    for (const auto& item : state) visit(item.second);
  }
  if (const AveragedWeights* averages = parts.step.averages()) {
    for (const auto& item : averages->named()) visit(item.second);
  }
}

}  // namespace

int nccl_blocks(const Config& config) {
  const bool wanted = config.network.bn_mode == "sync" && config.network.sync_exchange == "auto";
  return wanted ? nn::PeerMemoryOptions().spare_multiprocessors : 0;
}

std::string connect_layers(const Config& config, const World& world, c10::Device device) {
  if (config.network.bn_mode != "sync" || !world.on_gpus) return {};
  std::string reason = "network.sync_exchange is collectives";
  if (nccl_blocks(config) > 0) {
    nn::PeerMemoryOptions options;
    if (world.nccl_blocks == 0) options.refusal = "there are more than 8 processes, or several launchers";
    reason = nn::use_peer_memory(world.group, device.index(), options);
  }
  if (reason.empty()) return "synchronised layers exchange their sums through the GPUs' memory";
  return "synchronised layers exchange their sums through NCCL: " + reason;
}

void check_same_job(const World& world, const JobFacts& facts) {
  if (!world.group) return;
  const auto number = [](auto value) { return static_cast<int64_t>(value); };
  const std::array<std::pair<const char*, int64_t>, 6> own = {{
      {"configuration", number(std::hash<std::string>()(facts.config))},
      {"--resume (is the log folder the same on every machine?)", number(facts.resumed)},
      {"epoch of the snapshot", facts.state.epoch},
      {"step of the snapshot", facts.state.step},
      {"number of training images", facts.train_images},
      {"number of validation images", facts.val_images},
  }};
  at::Tensor mine = at::empty({number(own.size())}, at::kLong);
  for (size_t i = 0; i < own.size(); ++i) mine[number(i)] = own[i].second;
  const at::Tensor here = mine.clone();
  broadcast(world.group, {mine});
  std::string text;
  for (size_t i = 0; i < own.size() && text.empty(); ++i) {
    if (!mine[number(i)].equal(here[number(i)])) text = own[i].first;
  }
  if (!text.empty()) {
    throw SnapshotError("rank " + std::to_string(world.rank) + " has not what rank 0 has: another " + text);
  }
}

void share_state(const World& world, const SnapshotParts& parts, const RunState& state) {
  if (!world.group) return;
  std::vector<at::Tensor> tensors;
  for_each_tensor(parts, [&](const at::Tensor& tensor) { tensors.push_back(tensor); });
  broadcast(world.group, tensors);
  if (LossScaler* scaler = parts.step.scaler()) {
    const at::Tensor scale = scaler->state();
    broadcast(world.group, {scale});
    scaler->load_state(scale);
  }
  if (world.first()) return;
  // Sums of the epoch at hand are rank 0's, and so are the generators of a snapshot.
  parts.metrics.reset();
  const auto place = static_cast<uint64_t>(state.epoch * 1000003 + state.step);
  at::manual_seed(static_cast<uint64_t>(parts.config.seed) + 7919U * static_cast<uint64_t>(world.rank) + (place << 20));
}

void share_statistics(const World& world, const SnapshotParts& parts) {
  if (!world.group) return;
  broadcast(world.group, parts.network.buffers());
  if (const AveragedWeights* averages = parts.step.averages()) {
    std::vector<at::Tensor> tensors;
    for (const auto& item : averages->named()) tensors.push_back(item.second);
    broadcast(world.group, tensors);
  }
}

// One sum in double, which finite floats cannot overflow, and one wait for a GPU.
bool all_finite(const SnapshotParts& parts) {
  const at::NoGradGuard no_grad;
  at::Tensor sum = at::zeros({}, at::TensorOptions(at::kDouble).device(parts.device));
  for_each_tensor(parts, [&](const at::Tensor& tensor) { sum += tensor.sum(at::kDouble); });
  return std::isfinite(sum.item<double>());
}

}  // namespace iabn::train
