#pragma once

// Tests of several processes: each starts copies of its own program, which meet through Gloo, or with IABN_TEST_DEVICE
// "cuda" in the environment through NCCL, a GPU each.

#include <filesystem>
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

/// This rank's part of the whole batch, on its device.
torch::Tensor own_part(const torch::Tensor& whole, const train::World& world);

struct Job {
  std::vector<int> codes;  // by rank
  std::string output;      // of all
};

/// Runs one copy of this program for each part.
Job run(const std::string& worker, const std::string& part_sizes, const std::string& argument);

/// What each rank has saved in `folder` under its number.
std::vector<std::vector<torch::Tensor>> results(const std::filesystem::path& folder, size_t ranks);

}  // namespace iabn::test
