#pragma once

// A training run on disk, complete enough that a resumed run repeats the uninterrupted one bit for bit (on the CPU,
// with the same number of threads).

#include <cstdint>
#include <filesystem>
#include <optional>
#include <stdexcept>
#include <string>

#include <c10/core/Device.h>
#include <nlohmann/json_fwd.hpp>

#include "iabn/train/config.h"
#include "iabn/train/metrics.h"

namespace torch::nn {
class Module;
}
namespace torch::optim {
class Optimizer;
}

namespace iabn::train {

/// Names the file and what is wrong with it.
class SnapshotError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Where a run stands, beside its weights.
struct RunState {
  int64_t epoch = 0;         // finished epochs
  int64_t step = 0;          // finished steps of the epoch after them
  int64_t train_images = 0;  // of the data set, to notice another one
  double best_top1 = -1;     // percent, of evaluations so far; -1 before the first
  double epoch_seconds = 0;  // spent in the epoch at hand
};

/// A snapshot as bytes: a torch::serialize archive with the network, the optimiser, `state`, the metrics of the epoch
/// at hand, the generators of the CPU and of `device`, and as text the configuration, the gamma mode and the version.
std::string snapshot_bytes(const Config& config, const RunState& state, const MetricSums& metrics,
                           const torch::nn::Module& network, const torch::optim::Optimizer& optimizer,
                           c10::Device device);

/// Restores all of it into objects built from `config`. Throws SnapshotError where the file cannot be read, is
/// truncated, or belongs to another configuration (naming the first key that differs; optimizer.schedule.epochs may
/// differ, so that a run can be prolonged).
RunState load_snapshot(const std::filesystem::path& path, const Config& config, MetricSums& metrics,
                       torch::nn::Module& network, torch::optim::Optimizer& optimizer, c10::Device device);

/// The path of the first key whose value differs ("network.arch: ... instead of ..."), or nothing.
std::optional<std::string> first_difference(const nlohmann::json& snapshot, const nlohmann::json& wanted);

}  // namespace iabn::train
