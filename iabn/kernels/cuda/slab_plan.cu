// Which tensors the slab kernels take, and how their launches are cut.

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

#include "iabn/kernels/cuda/device.h"
#include "iabn/kernels/cuda/exchange.cuh"
#include "iabn/kernels/cuda/slab.h"
#include "iabn/kernels/cuda/slab_source.cuh"

namespace iabn::kernels::cuda {
namespace {

/// Measured on an H100 80GB with dev/ladder/cuda_slab_sweep.cu, bf16; figures in passes
/// (docs/design/5-cuda-kernels.md).
struct SlabPolicy {
  static constexpr int kVectorBytes = 16;
  /// Whole cache lines, or half ones: then two groups side by side take a line's halves at about the same time. Small
  /// tensors always take half lines: twice as many slabs mean fewer blocks that wait for each other.
  /// [32,256,14,14] forward 8.8 us, whole lines 9.8 us.
  static constexpr int kRowBytes[] = {128, 64};
  static constexpr int64_t kSmallBytes = 96 << 10;    // of the whole tensor, per multiprocessor
  static constexpr int64_t kOnChipBytes = 330 << 10;  // of a multiprocessor
  /// A block's share of a slab, at least, at most and best. [128,1024,14,14] forward: 100 KB 2.36, 200 KB 2.41;
  /// backward: 190 KB 3.64, 100 KB 3.70; residual backward: 150 KB 5.90, 290 KB 6.11.
  static constexpr int64_t kLeastShareBytes = 90 << 10;  // but for small tensors
  static constexpr int64_t kMostShareBytes = 300 << 10;
  static constexpr int64_t kShareBytes = 140 << 10;
  /// Contiguous: [128,256,56,56] forward 100 KB 2.24, 134 KB 2.27; but a block that has a channel for itself wins:
  /// [128,512,28,28] forward 2.41, with two blocks 2.50.
  static constexpr int64_t kRunShareBytes = 100 << 10;
  static constexpr int64_t kMostAloneBytes = 260 << 10;
  /// What these cost, against the part of the device that is left idle: a share of half or twice the best, twice as
  /// many blocks that wait for each other, half lines.
  static constexpr double kDoublingCost = 0.04;
  static constexpr double kBlocksCost = 0.015;
  /// Large channels-last tensors. [128,1024,14,14] forward in groups of 33 blocks 2.36, of 16 2.41.
  static constexpr double kLargeBlocksCost = 0.005;
  static constexpr double kHalfLinesCost = 0.03;
  /// What it costs if no next slab covers the wait for the sums. [128,2048,7,7] forward 2.9, with two slabs 2.7.
  static constexpr double kSingleSlab = 0.9;
  /// Small channels-last tensors: what every slab after a group's first costs in waiting. [32,1760,7,7] backward takes
  /// 23 us with five slabs in turn, the larger [32,1856,7,7] 16 us with one.
  static constexpr double kSmallSlabs = 0.9;
  /// Blocks with fewer chunks than this get them evenly; others get whole chunks, some one more than others.
  static constexpr int64_t kManyChunks = 3;
  /// [128,512,28,28] forward 2.35, with three 2.37; contiguous backward 3.60 and 3.65. But where forward fetches a
  /// part twice, three: [128,256,56,56] 2.45, with four 2.48; the residual form 3.95, with four 3.91.
  static constexpr int kInFlight = 4;
  static constexpr int kStreamingInFlight = 3;
  /// Small channels-last tensors. [32,256,14,14] backward 9.7 us, with three 10.2 us.
  static constexpr int kSmallInFlight = 2;
  /// [64,256,56,56] backward 4.06, without 4.30; [128,256,56,56] forward 2.53, without 2.60. Where much of a large
  /// share is fetched twice, it takes the L2's place from that: [128,256,56,56] residual forward 4.14, without 4.04.
  /// Contiguous tensors get none: [128,256,56,56] residual backward 6.81, without 6.65.
  static constexpr int kPrefetch = 12;
  static constexpr int64_t kPrefetchShareBytes = 450 << 10;
};

int64_t quotient(int64_t a, int64_t b) { return (a + b - 1) / b; }

struct Slabs {
  int64_t count;
  int64_t bytes;       // of a slab, all inputs
  double chunks;       // of a slab; the last one may be a part
  bool even;           // chunks are cut to the number of blocks
  double blocks_cost;  // of twice as many blocks in a group
};

struct Division {
  int blocks = 1;  // of a group
  double score = 0;
};

/// The part of a group's blocks that works until the last one is done.
double balance(const Slabs& slabs, int64_t blocks) {
  const double mean = slabs.chunks / static_cast<double>(blocks);
  if (std::ceil(mean) < static_cast<double>(SlabPolicy::kManyChunks) && slabs.even) return 1;
  const double whole = std::floor(mean);
  // The square root: the others load ahead meanwhile.
  return std::sqrt(mean / (whole + std::min(1.0, slabs.chunks - whole * static_cast<double>(blocks))));
}

/// Blocks per group, from `fewest` to `most`: as much of the device as possible in use, shares near the best.
Division divide(const Slabs& slabs, int64_t share_bytes, int64_t fewest, int64_t most, int64_t multiprocessors,
                bool small) {
  const double wanted = static_cast<double>(slabs.bytes) / static_cast<double>(share_bytes);
  Division best;
  for (int64_t blocks = fewest; blocks <= most; ++blocks) {
    blocks = std::min(most, multiprocessors / (multiprocessors / blocks));  // the most with as many groups
    const int64_t groups = std::min(multiprocessors / blocks, slabs.count);
    const int64_t rounds = quotient(slabs.count, groups);
    const double use = static_cast<double>(slabs.count * blocks) / static_cast<double>(rounds * multiprocessors);
    const double doublings = std::abs(std::log2(static_cast<double>(blocks) / wanted));
    const double score = use * balance(slabs, blocks) * (1 - SlabPolicy::kDoublingCost * doublings) *
                         (1 - slabs.blocks_cost * std::log2(static_cast<double>(blocks))) *
                         (small         ? std::pow(SlabPolicy::kSmallSlabs, static_cast<double>(rounds - 1))
                          : rounds == 1 ? SlabPolicy::kSingleSlab
                                        : 1);
    if (score > best.score) best = {static_cast<int>(blocks), score};
  }
  return best;
}

int64_t channels_of(int element_bytes, const SlabPlan& plan) {
  return plan.row_bytes == 0 ? 1 : plan.row_bytes / element_bytes;
}

std::optional<SlabPlan> make_plan(const Shape& shape, int element_bytes, Pass pass, int64_t multiprocessors) {
  const int inputs = inputs_of(pass);
  const bool contiguous = shape.layout == Layout::kContiguous;
  const int64_t row = (contiguous ? shape.s : shape.c) * element_bytes;
  SlabPlan plan;
  const auto set_blocks = [&](int blocks, int64_t slabs, int64_t slab_bytes) {
    plan.blocks = blocks;
    plan.groups = static_cast<int>(std::min(multiprocessors / blocks, slabs));
    const int64_t share = slab_bytes / blocks;
    const bool streaming = pass == Pass::kForward && share > SlabPolicy::kOnChipBytes;
    plan.in_flight = streaming ? SlabPolicy::kStreamingInFlight : SlabPolicy::kInFlight;
    plan.prefetch = !contiguous && share <= SlabPolicy::kPrefetchShareBytes ? SlabPolicy::kPrefetch : 0;
  };
  if (contiguous) {
    const int64_t run_vectors = row / SlabPolicy::kVectorBytes;
    const int64_t tile_vectors = tile_bytes(inputs) / SlabPolicy::kVectorBytes;
    const int pieces = run_pieces(run_vectors, static_cast<int>(tile_vectors));
    if (pieces == 0) return {};
    const int64_t chunks = pieces > 1 ? shape.n * pieces : quotient(shape.n, tile_vectors / run_vectors);
    const int64_t slab_bytes = shape.count() * element_bytes * inputs;
    const int64_t most = std::min<int64_t>(chunks, multiprocessors);
    const int64_t fewest = std::min(most, quotient(slab_bytes, SlabPolicy::kMostShareBytes));
    const bool alone = slab_bytes <= SlabPolicy::kMostAloneBytes && shape.c >= multiprocessors;
    const Slabs slabs{shape.c, slab_bytes, static_cast<double>(chunks), false, SlabPolicy::kBlocksCost};
    set_blocks(alone ? 1 : divide(slabs, SlabPolicy::kRunShareBytes, fewest, most, multiprocessors, false).blocks,
               shape.c, slab_bytes);
    return plan;
  }

  const bool small = shape.numel() * element_bytes * inputs < multiprocessors * SlabPolicy::kSmallBytes;
  double best = 0;
  for (const int row_bytes : SlabPolicy::kRowBytes) {
    const bool whole_lines = row_bytes == SlabPolicy::kRowBytes[0];
    // A box would be half empty: [2,16,128,128,128] forward + backward 13.6 passes, contiguous 7.5.
    if (small ? whole_lines : row_bytes > row) continue;
    const double rows = static_cast<double>(shape.count());
    const Slabs slabs{quotient(row, row_bytes), shape.count() * row_bytes * inputs,
                      rows / (tile_bytes(inputs) / row_bytes), true,
                      small ? SlabPolicy::kBlocksCost : SlabPolicy::kLargeBlocksCost};
    const int64_t fewest = std::min(multiprocessors, quotient(slabs.bytes, SlabPolicy::kMostShareBytes));
    // Half lines pay for groups side by side alone.
    const int64_t blocks = whole_lines || small ? multiprocessors : multiprocessors / 2;
    const int64_t most = small ? blocks : std::min(blocks, quotient(slabs.bytes, SlabPolicy::kLeastShareBytes));
    if (fewest > most) continue;
    Division division = divide(slabs, SlabPolicy::kShareBytes, fewest, most, multiprocessors, small);
    if (!whole_lines) division.score *= 1 - SlabPolicy::kHalfLinesCost;
    if (division.score <= best) continue;
    best = division.score;
    plan.row_bytes = row_bytes;
    set_blocks(division.blocks, slabs.count, slabs.bytes);
  }
  if (best == 0) return {};
  if (small) plan.in_flight = SlabPolicy::kSmallInFlight;
  const int64_t most_rows = tile_bytes(inputs) / plan.row_bytes;
  const int64_t chunks = quotient(shape.count(), plan.blocks * most_rows);
  if (chunks < SlabPolicy::kManyChunks) {
    plan.chunk_rows = static_cast<int>(quotient(shape.count(), plan.blocks * chunks));
  }
  return plan;
}

}  // namespace

/// Plans are made once per thread and shape, as far as there is room: a call needs several, each of a microsecond.
std::optional<SlabPlan> slab_plan(const Shape& shape, int element_bytes, uintptr_t pointer_bits, Pass pass, int spare) {
  const bool contiguous = shape.layout == Layout::kContiguous;
  const int64_t row = (contiguous ? shape.s : shape.c) * element_bytes;
  constexpr int64_t kMostRows = int64_t{1} << 30;
  if (element_bytes > 4 || shape.numel() == 0 || shape.count() >= kMostRows || shape.c >= kMostRows) return {};
  if ((row | static_cast<int64_t>(pointer_bits)) % SlabPolicy::kVectorBytes != 0) return {};
  const Device device = current_device();
  const int multiprocessors = device.multiprocessors - spare;
  if (!device.supported || multiprocessors < 1) return {};

  using Key = std::array<int64_t, 7>;
  const Key key{shape.n, shape.c, shape.s, contiguous, element_bytes, static_cast<int64_t>(pass), multiprocessors};
  thread_local std::array<std::pair<Key, std::optional<SlabPlan>>, 256> made;
  uint64_t hash = 0;
  for (const int64_t number : key) hash = (hash ^ static_cast<uint64_t>(number)) * 0x9e3779b97f4a7c15u;
  auto& [its_key, plan] = made[hash >> 56];
  if (its_key != key) {
    plan = make_plan(shape, element_bytes, pass, multiprocessors);
    its_key = key;
  }
  return plan;
}

size_t slab_workspace_bytes(const Shape& shape, int element_bytes, const SlabPlan& plan) {
  const int64_t channels = channels_of(element_bytes, plan);
  return Exchange::bytes(quotient(shape.c, channels) * channels);
}

}  // namespace iabn::kernels::cuda
