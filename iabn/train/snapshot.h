#pragma once

// A training run on disk, complete enough that a resumed run repeats the uninterrupted one bit for bit (on the CPU with
// the same number of threads; on a GPU of the same kind with "deterministic").
//
// A file of torch.save: {"epoch", "arch", "state_dict" (keys begin with "module."), "best_prec1", "optimizer" (as
// torch.optim's state_dict())}, which is the original package's layout, and "iabn": {"format", "version", "config"
// (JSON), "gamma", "classes" (JSON; of classification), "step", ...}. torch.load(weights_only=True) reads it.

#include <cstdint>
#include <filesystem>
#include <stdexcept>
#include <string>
#include <vector>

#include <c10/core/Device.h>
#include <nlohmann/json_fwd.hpp>

#include "iabn/train/config.h"
#include "iabn/train/metrics.h"

namespace iabn::models {
class Network;
}

namespace iabn::train {

class TrainStep;

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
  double best_score = -1;    // Metrics::score() of evaluations so far; -1 before the first
  double epoch_seconds = 0;  // spent in the epoch at hand
};

/// What a snapshot is made of and restored into; all built from the same configuration.
struct SnapshotParts {
  const Config& config;
  models::Network& network;
  TrainStep& step;  // optimiser, loss scale, averaged weights
  Meter& metrics;
  c10::Device device;   // its generator belongs to the state
  std::string classes;  // Evaluator::classes()
};

/// metrics: what the processes of the job have summed together in the epoch at hand.
std::string snapshot_bytes(const SnapshotParts& parts, const RunState& state, const MeterSums& metrics);

/// Throws SnapshotError where the file cannot be read, is truncated or foreign, or, unless `any_config`, belongs to
/// another configuration or other classes: the text lists what differs. optimizer.schedule.epochs may differ, so that a
/// run can be prolonged. `differences` (may be null) gets what any_config passed over.
RunState load_snapshot(const std::filesystem::path& path, const SnapshotParts& parts, bool any_config = false,
                       std::vector<std::string>* differences = nullptr);

/// One text per key whose value differs ("network.arch is ... there, ... here"), those of the network first.
std::vector<std::string> config_differences(const nlohmann::json& there, const nlohmann::json& here);

/// The first few of them in a line.
std::string joined_differences(const std::vector<std::string>& texts);

/// Throws SnapshotError where a run that was at `state` cannot go on with so many training images and steps of an
/// epoch.
void check_same_data(const std::filesystem::path& path, const RunState& state, int64_t train_images, int64_t batches);

}  // namespace iabn::train
