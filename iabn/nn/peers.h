#pragma once

// Synchronised layers whose kernels exchange their sums themselves, through memory that the GPUs of one host share.

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include "iabn/nn/sync.h"

namespace iabn::nn {

struct PeerMemoryOptions {
  static constexpr int kMostProcesses = 8;

  /// Of the largest layer, the same on all ranks; others go through the group's collectives.
  int64_t channels = 8192;
  /// Multiprocessors that the layer's kernels leave to all other kernels together that wait for another process:
  /// NCCL's, with gradients on their way. Where those need more, both may wait until the timeout: limit them (maxCTAs
  /// of the group's options). At least 1.
  int spare_multiprocessors = 8;
  /// A kernel that waits longer for another process ends with a CUDA error.
  std::chrono::milliseconds timeout = std::chrono::minutes(10);
  /// Why this process does not want it, whatever the others do; empty: it does.
  std::string refusal;
};

/// From now on the synchronised layers of `group` with float32, float16 or bfloat16 x on CUDA device `device` exchange
/// their sums inside their kernels: one launch per direction instead of a collective between several, and what fits
/// stays on chip meanwhile. Needs 2 to 8 processes on one host, each with a GPU of its own that can reach the others'
/// memory, and NCCL_MAX_CTAS, where it is set, not above spare_multiprocessors. Returns why that can't be, the same on
/// all ranks: then nothing changes. An empty text: it is done. Collective, through the group's store; before the
/// layers' first pass. Launches over peer memory must run one after the other on a device: eager ones are kept so. CUDA
/// graphs that hold them must be replayed in order with each other and with eager passes: on one stream, or ordered by
/// events.
std::string use_peer_memory(const ProcessGroup& group, int device, const PeerMemoryOptions& options = {});

/// The argument `peers` of the operators (iabn/ops/schemas.cpp) for x over `group`; null: through its collectives.
const std::vector<int64_t>* peers_of(const ProcessGroup& group, const at::Tensor& x);

}  // namespace iabn::nn
