// Which tensors the slab kernels take, and how their launches are cut.

#include <algorithm>
#include <cmath>
#include <vector>

#include "iabn/kernels/cuda/exchange.cuh"
#include "iabn/kernels/cuda/launch.h"
#include "iabn/kernels/cuda/slab.h"
#include "iabn/kernels/cuda/tensor_map.h"

namespace iabn::kernels::cuda {
namespace {

/// Measured on an H100 80GB with dev/ladder/cuda_slab_sweep.cu, bf16; figures in passes
/// (docs/design/5-cuda-kernels.md).
struct SlabPolicy {
  static constexpr int64_t kStageBytes = 16384;  // of all inputs
  static constexpr int kVectorBytes = 16;
  /// Rows of half a cache line: two to six slabs are on chip at a time, so that the wait for one is covered by the
  /// loads of the next; the neighbouring group takes the other half of the line at about the same time. [128,512,28,28]
  /// forward + backward: 6.3, with 128-byte rows 6.8, with 256 7.0.
  static constexpr int kRowBytes = 64;
  /// A block's share of a slab, at most and best. [128,2048,7,7] forward: 200 KB 3.00, 100 KB 2.76;
  /// [8,1024,65,65] forward: 135 KB 2.43, 65 KB 2.56.
  static constexpr int64_t kMostShareBytes = 200 << 10;
  static constexpr int64_t kShareBytes = 130 << 10;
  /// Where that takes more blocks than this, one group of all blocks and whole cache lines.
  static constexpr int kMostBlocks = 66;
  static constexpr int kWideRowBytes = 128;
  /// What a share of half or twice the best costs, against the part of the device that is left idle.
  static constexpr double kDoublingCost = 0.04;
  /// Blocks with fewer chunks than this get them evenly; others get whole chunks, some one more than others.
  static constexpr int64_t kManyChunks = 5;
  static constexpr int kInFlight = 3;
  /// Backward in large groups: [128,512,28,28] 3.86, with 3 in flight 4.0.
  static constexpr int kLargeGroup = 33;
  static constexpr int kInFlightLargeGroup = 2;
};

struct Device {
  int multiprocessors = 0;
  bool supported = false;
};

#if defined(IABN_CUDA_SM90A)
int attribute(cudaDeviceAttr which, int device) {
  int value = 0;
  check(cudaDeviceGetAttribute(&value, which, device), "cudaDeviceGetAttribute");
  return value;
}

std::vector<Device> all_devices() {
  int count = 0;
  check(cudaGetDeviceCount(&count), "cudaGetDeviceCount");
  std::vector<Device> result(static_cast<size_t>(count));
  for (int device = 0; device < count; ++device) {
    Device& d = result[static_cast<size_t>(device)];
    d.multiprocessors = attribute(cudaDevAttrMultiProcessorCount, device);
    d.supported = attribute(cudaDevAttrCooperativeLaunch, device) != 0 &&
                  attribute(cudaDevAttrComputeCapabilityMajor, device) == 9 &&
                  attribute(cudaDevAttrComputeCapabilityMinor, device) == 0 &&
                  d.multiprocessors <= 32 * Exchange::kRounds;
  }
  return result;
}
#endif

/// Attributes are asked once: a plan is made several times per call.
Device current_device() {
#if defined(IABN_CUDA_SM90A)
  static const std::vector<Device> devices = all_devices();
  int device = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  return devices.at(static_cast<size_t>(device));
#else
  return {};
#endif
}

int64_t quotient(int64_t a, int64_t b) { return (a + b - 1) / b; }

/// Blocks per group, from `fewest` to `most`: as much of the device as possible in use, shares near the best.
int best_blocks(int64_t slabs, int64_t slab_bytes, int64_t fewest, int64_t most, int multiprocessors) {
  const double wanted = static_cast<double>(slab_bytes) / static_cast<double>(SlabPolicy::kShareBytes);
  int64_t best = 1;
  double best_score = 0;
  for (int64_t blocks = fewest; blocks <= most; ++blocks) {
    blocks = std::min(most, multiprocessors / (multiprocessors / blocks));  // the most with as many groups
    const int64_t groups = std::min(multiprocessors / blocks, slabs);
    const int64_t rounds = quotient(slabs, groups);
    const double use = static_cast<double>(slabs * blocks) / static_cast<double>(rounds * multiprocessors);
    const double doublings = std::abs(std::log2(static_cast<double>(blocks) / wanted));
    const double score = use * (1 - SlabPolicy::kDoublingCost * doublings);
    if (score > best_score) {
      best_score = score;
      best = blocks;
    }
  }
  return static_cast<int>(best);
}

int64_t channels_of(int element_bytes, const SlabPlan& plan) {
  return plan.row_bytes == 0 ? 1 : plan.row_bytes / element_bytes;
}

}  // namespace

std::optional<SlabPlan> slab_plan(const Shape& shape, int element_bytes, uintptr_t pointer_bits, Pass pass) {
  const int inputs = pass == Pass::kForward ? 1 : 2;
  const bool contiguous = shape.layout == Layout::kContiguous;
  const int64_t row = (contiguous ? shape.s : shape.c) * element_bytes;
  constexpr int64_t kMostRows = int64_t{1} << 30;
  if (element_bytes > 4 || shape.numel() == 0 || shape.count() >= kMostRows || shape.c >= kMostRows) return {};
  if ((row | static_cast<int64_t>(pointer_bits)) % SlabPolicy::kVectorBytes != 0) return {};
  const Device device = current_device();
  if (!device.supported) return {};

  SlabPlan plan;
  plan.in_flight = SlabPolicy::kInFlight;
  if (contiguous) {
    const int64_t run_vectors = row / SlabPolicy::kVectorBytes;
    const int64_t tile_vectors = SlabPolicy::kStageBytes / inputs / SlabPolicy::kVectorBytes;
    const int pieces = run_pieces(run_vectors, static_cast<int>(tile_vectors));
    // Long runs of 16-bit elements, forward: [128,64,112,112] 3.3, two passes 3.2.
    if (pieces == 0 || (pieces > 1 && element_bytes == 2 && pass == Pass::kForward)) return {};
    const int64_t chunks = pieces > 1 ? shape.n * pieces : quotient(shape.n, tile_vectors / run_vectors);
    const int64_t slab_bytes = shape.count() * element_bytes * inputs;
    const int64_t most = std::min<int64_t>(chunks, device.multiprocessors);
    const int64_t fewest = std::min(most, quotient(slab_bytes, SlabPolicy::kMostShareBytes));
    plan.blocks = best_blocks(shape.c, slab_bytes, fewest, most, device.multiprocessors);
    plan.groups = static_cast<int>(std::min<int64_t>(device.multiprocessors / plan.blocks, shape.c));
    return plan;
  }

  plan.row_bytes = SlabPolicy::kRowBytes;
  int64_t slabs = quotient(row, plan.row_bytes);
  const int64_t slab_bytes = shape.count() * plan.row_bytes * inputs;
  const int64_t fewest = quotient(slab_bytes, SlabPolicy::kMostShareBytes);
  const int64_t most = std::min<int64_t>(SlabPolicy::kMostBlocks, device.multiprocessors);
  if (fewest <= most) {
    plan.blocks = best_blocks(slabs, slab_bytes, fewest, most, device.multiprocessors);
  } else {
    plan.row_bytes = SlabPolicy::kWideRowBytes;
    slabs = quotient(row, plan.row_bytes);
    plan.blocks = device.multiprocessors;
  }
  plan.groups = static_cast<int>(std::min<int64_t>(device.multiprocessors / plan.blocks, slabs));
  const int64_t most_rows = SlabPolicy::kStageBytes / inputs / plan.row_bytes;
  const int64_t chunks = quotient(shape.count(), plan.blocks * most_rows);
  if (chunks < SlabPolicy::kManyChunks) {
    plan.chunk_rows = static_cast<int>(quotient(shape.count(), plan.blocks * chunks));
  }
  if (pass == Pass::kBackward && fewest <= most && plan.blocks >= SlabPolicy::kLargeGroup) {
    plan.in_flight = SlabPolicy::kInFlightLargeGroup;
  }
  return plan;
}

size_t slab_workspace_bytes(const Shape& shape, int element_bytes, const SlabPlan& plan, Pass pass) {
  const int64_t channels = channels_of(element_bytes, plan);
  return Exchange::bytes(quotient(shape.c, channels) * channels, plan.blocks, pass == Pass::kForward ? 1 : 2);
}

CUtensorMap row_map(const void* address, size_t element_bytes, int64_t rows, int64_t channels, int box_rows,
                    int box_channels) {
  using Encode = CUresult (*)(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*, const cuuint64_t*,
                              const cuuint64_t*, const cuuint32_t*, const cuuint32_t*, CUtensorMapInterleave,
                              CUtensorMapSwizzle, CUtensorMapL2promotion, CUtensorMapFloatOOBfill);
  static const Encode encode = [] {
    void* function = nullptr;
    cudaDriverEntryPointQueryResult result = cudaDriverEntryPointSymbolNotFound;
    check(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault, &result),
          "cudaGetDriverEntryPointByVersion");
    if (result != cudaDriverEntryPointSuccess) check(cudaErrorNotSupported, "cuTensorMapEncodeTiled");
    return reinterpret_cast<Encode>(function);
  }();
  // The bits alone matter: any type of this size.
  const auto type = element_bytes == 2 ? CU_TENSOR_MAP_DATA_TYPE_UINT16 : CU_TENSOR_MAP_DATA_TYPE_UINT32;
  const cuuint64_t sizes[2] = {static_cast<cuuint64_t>(channels), static_cast<cuuint64_t>(rows)};
  const cuuint64_t strides[1] = {static_cast<cuuint64_t>(channels) * element_bytes};
  const cuuint32_t box[2] = {static_cast<cuuint32_t>(box_channels), static_cast<cuuint32_t>(box_rows)};
  const cuuint32_t steps[2] = {1, 1};
  CUtensorMap map;
  const CUresult status =
      encode(&map, type, 2, const_cast<void*>(address), sizes, strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
             CU_TENSOR_MAP_SWIZZLE_NONE, CU_TENSOR_MAP_L2_PROMOTION_L2_128B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (status != CUDA_SUCCESS) check(cudaErrorInvalidValue, "cuTensorMapEncodeTiled");
  return map;
}

}  // namespace iabn::kernels::cuda
