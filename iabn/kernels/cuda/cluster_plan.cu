// Which tensors the cluster kernels take, and how their launches are cut.

#include <algorithm>
#include <numeric>

#include "iabn/kernels/cuda/cluster.h"
#include "iabn/kernels/cuda/cluster_budget.cuh"
#include "iabn/kernels/cuda/device.h"

namespace iabn::kernels::cuda {
namespace {

constexpr int kVectorBytes = 16;

/// Measured on an H100 80GB with dev/ladder/cuda_cluster_sweep.cu, bf16, in CUDA graphs.
struct ClusterPolicy {
  static constexpr int kReservedBytes = 1024;  // of a block, by the system
  static constexpr int kRegisters = 65536;     // of a multiprocessor
  static constexpr int kStageBytes = 12800;    // all inputs, about
  static constexpr int kBoxRows = 256;
  static constexpr int kBoxBytes = 2048;  // of a row in a box
  static constexpr int kLeastPartBytes = 256;

  /// Bytes of a row, at least, as long as they divide C and are not too many channels: fewer slabs to merge.
  /// [128,1024,14,14] forward: 4 channels 46.8 us, 2 channels 48.2 us; [128,2048,7,7]: 8 channels 24.5 us, 16 25.4 us.
  static constexpr int kRowBytes = 1024;
  static constexpr int kMostChannels = 8;
  /// Threads by the number of blocks on a multiprocessor, one or two.
  static constexpr int kThreads[] = {384, 256};
  /// Two blocks on a multiprocessor are better than one, and clusters of two better than larger ones, but where there
  /// is little arithmetic per byte: [128,1024,14,14] residual forward 70 us with eight blocks in a cluster, 74 us with
  /// two alone on their multiprocessors; float32 [128,2048,7,7] backward 68 and 72 us.
  static constexpr int kBlocks = 2;
  static constexpr int kManyBlocks = 8;

  /// Tensors below these bytes are better off where a block has a channel in registers (channel.h), by the bytes of its
  /// vectors. [32,256,14,14] forward 8.6 us, channel kernel 5.9 us; [32,1024,14,14] backward 22.1 and 24.3 us;
  /// [32,512,7,7] forward + backward as fast.
  static constexpr int64_t kLeastBytes = 3 << 20;
  static constexpr int64_t kLeastBytesOfVectors = 8 << 20;
  static constexpr int kChannelVectorBytes = 8;
  /// [128,1024,14,14] backward 77 us, channel kernel 76 us; [64,1024,14,14] 42.2 and 42.9 us.
  static constexpr int64_t kMostBackwardRows = 64;
  /// The residual form has no channel kernel: [32,256,14,14] forward 10.2 us, two passes 14.4 us.
  static constexpr int64_t kLeastResidualBytes = 1 << 20;
};

int64_t quotient(int64_t a, int64_t b) { return (a + b - 1) / b; }

bool residual(Pass pass) { return pass == Pass::kResidualForward || pass == Pass::kResidualBackward; }

/// Whether the two passes would do as well, which are what is left where no other kernel takes the tensor.
bool too_small(const Shape& shape, int element_bytes, Pass pass) {
  return residual(pass) && shape.numel() * element_bytes < ClusterPolicy::kLeastResidualBytes;
}

/// Whether the channel kernels, where they apply, would do as well.
bool better_by_channel(const Shape& shape, int element_bytes, Pass pass) {
  const int64_t bytes = shape.numel() * element_bytes;
  if (shape.s * element_bytes % ClusterPolicy::kChannelVectorBytes != 0) return bytes < ClusterPolicy::kLeastBytes;
  return bytes < ClusterPolicy::kLeastBytesOfVectors ||
         (pass == Pass::kBackward && shape.n > ClusterPolicy::kMostBackwardRows);
}

}  // namespace

std::optional<ClusterCut> cluster_cut(const Shape& shape, int element_bytes, Pass pass, const ClusterPlan& plan) {
  const int64_t inputs = inputs_of(pass);
  const int64_t row_bytes = plan.channels * shape.s * element_bytes;
  const int64_t rows = shape.n;
  if (shape.layout != Layout::kContiguous || row_bytes == 0 || row_bytes % kVectorBytes != 0 ||
      row_bytes > ClusterBudget::kMaxThreads * kVectorBytes || shape.c % plan.channels != 0 ||
      shape.s * element_bytes < kVectorBytes ||  // a vector reaches into two channels at most
      rows >= int64_t{1} << 30 || shape.c >= int64_t{1} << 30) {
    return {};
  }
  ClusterCut cut{};
  cut.columns = static_cast<int>(row_bytes / kVectorBytes);
  cut.rows = static_cast<int>(rows);
  cut.parts = 1;
  while (cut.columns % cut.parts != 0 || row_bytes / cut.parts > ClusterPolicy::kBoxBytes) ++cut.parts;
  if (row_bytes / cut.parts < ClusterPolicy::kLeastPartBytes && cut.parts > 1) return {};
  const int phases = std::max(1, plan.threads / cut.columns);
  cut.threads = static_cast<int>(quotient(phases * cut.columns, 32) * 32);
  if ((cut.threads + 32) * ClusterBudget::kRegisters * plan.resident > ClusterPolicy::kRegisters) return {};

  // Boxes begin at 128-byte boundaries of shared memory.
  const int64_t unit = 128 / std::gcd(row_bytes, int64_t{128});
  const int64_t most = std::min<int64_t>(ClusterPolicy::kStageBytes / (row_bytes * inputs), ClusterPolicy::kBoxRows);
  const int64_t stage_rows = std::max(unit, std::min(most, quotient(rows, plan.blocks)) / unit * unit);
  const int64_t stages = quotient(quotient(rows, plan.blocks), stage_rows);
  const int64_t stage_bytes = stage_rows * row_bytes * inputs;
  const ClusterScratch scratch(cut.threads, plan.blocks, plan.channels);
  const int64_t budget =
      ClusterBudget::kSharedBytes / plan.resident - (plan.resident > 1 ? ClusterPolicy::kReservedBytes : 0);
  const int64_t room = std::min<int64_t>((budget - scratch.bytes()) / stage_bytes, ClusterBudget::kMostStages);
  if (room < stages) return {};
  cut.stage_rows = static_cast<int>(stage_rows);
  cut.share = static_cast<int>(stages * stage_rows);
  cut.ring_stages = static_cast<int>(room);
  cut.shared_bytes = static_cast<int>(room * stage_bytes + scratch.bytes());
  cut.clusters = static_cast<int>(
      std::clamp<int64_t>(current_device().multiprocessors * plan.resident / plan.blocks, 1, shape.c / plan.channels));
  return cut;
}

std::optional<ClusterPlan> cluster_plan(const Shape& shape, int element_bytes, uintptr_t pointer_bits, Pass pass,
                                        bool channel_kernel) {
  const int64_t run_bytes = shape.s * element_bytes;
  if (element_bytes > 4 || shape.layout != Layout::kContiguous || shape.numel() == 0 ||
      pointer_bits % kVectorBytes != 0 || run_bytes % kVectorBytes == 0 ||  // whole vectors: the slab kernels'
      too_small(shape, element_bytes, pass) || (channel_kernel && better_by_channel(shape, element_bytes, pass))) {
    return {};
  }
  const Device device = current_device();
  if (!device.supported) return {};
  const int fewest = kVectorBytes / static_cast<int>(std::gcd(run_bytes, int64_t{kVectorBytes}));
  int channels = fewest;
  while (channels < ClusterPolicy::kMostChannels && channels * run_bytes < ClusterPolicy::kRowBytes &&
         shape.c % (2 * channels) == 0) {
    channels *= 2;
  }
  const bool light = pass == Pass::kResidualForward || element_bytes == 4;

  std::optional<ClusterPlan> found;
  const auto try_plan = [&](int c, int resident, int blocks) {
    const ClusterPlan plan{c, blocks, ClusterPolicy::kThreads[resident - 1], resident};
    if (!found && cluster_cut(shape, element_bytes, pass, plan)) found = plan;
  };
  const auto try_plans = [&](int c, int resident, int most) {
    for (int blocks = 1; blocks <= most; blocks *= 2) {
      if (shape.c / c * blocks >= device.multiprocessors || blocks == most) try_plan(c, resident, blocks);
    }
  };
  for (const int c : {channels, fewest}) {
    try_plans(c, 2, ClusterPolicy::kBlocks);
    if (light) try_plan(c, 2, ClusterPolicy::kManyBlocks);
    try_plans(c, 1, ClusterPolicy::kBlocks);
  }
  for (const int c : {channels, fewest}) try_plans(c, 1, ClusterPolicy::kManyBlocks);
  return found;
}

}  // namespace iabn::kernels::cuda
