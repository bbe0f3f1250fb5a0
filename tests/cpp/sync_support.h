#pragma once

// Tests of several processes: each starts copies of its own program, which meet through Gloo, or with IABN_TEST_DEVICE
// "cuda" in the environment through NCCL, a GPU each.

#include <string>
#include <vector>

#include <torch/torch.h>

#include "iabn/train/distributed.h"

namespace iabn::test {

/// What a worker is told, in its environment: IABN_TEST_WORKER (what to do), IABN_TEST_ARGUMENT, IABN_TEST_PARTS.
std::string told(const char* name);

bool on_gpus();
/// Whether there are GPUs enough for a test of `ranks` processes.
bool can_run(int64_t ranks);
torch::Device device_of(const train::World& world);

/// Sizes of the ranks' parts, "7,1".
std::vector<int64_t> parts(const std::string& text);

struct Job {
  std::vector<int> codes;  // by rank
  std::string output;      // of all
};

/// Runs one copy of this program for each part.
Job run(const std::string& worker, const std::string& part_sizes, const std::string& argument);

}  // namespace iabn::test
