#pragma once

// What the processes of a job have in common.

#include <cstdint>
#include <string>

#include "iabn/train/distributed.h"
#include "iabn/train/snapshot.h"

namespace iabn::train {

/// What must be the same on all, or they would train different things together without noticing.
struct JobFacts {
  std::string config;    // as text
  bool resumed = false;  // from a snapshot
  RunState state;
  int64_t train_images = 0, val_images = 0;
};

/// A collective. Throws SnapshotError that names this rank and what differs from rank 0's: another configuration file,
/// a log or data folder that is not the same on every machine.
void check_same_job(const World& world, const JobFacts& facts);

/// Thread blocks that an NCCL kernel of the job may have, so that connect_layers can be; 0: any number.
int nccl_blocks(const Config& config);
/// Has the synchronised layers of a job on GPUs exchange their sums through memory that these share (nn/peers.h), with
/// network.sync_exchange "auto" and where that can be. A line that says which way it is, empty without such layers. A
/// collective.
std::string connect_layers(const Config& config, const World& world, c10::Device device);

/// Weights, statistics, optimiser state, averages and loss scale of rank 0 to all, which may differ in the last bit;
/// the other ranks' random numbers then are their own. A collective.
void share_state(const World& world, const SnapshotParts& parts, const RunState& state);

/// Running statistics of rank 0 to all, those of the averages, too: what plain layers count is each process's own. A
/// collective; nothing without a group.
void share_statistics(const World& world, const SnapshotParts& parts);

/// False where a weight, a running statistic, the optimiser's state or an average is not finite. Waits for a GPU.
bool all_finite(const SnapshotParts& parts);

}  // namespace iabn::train
