#include "iabn/kernels/cuda/exchange_area.h"

#include <map>
#include <mutex>
#include <utility>

#include "iabn/kernels/cuda/launch.h"

namespace iabn::kernels::cuda {
namespace {

constexpr size_t kKeptBytes = size_t{2} << 20;
constexpr size_t kMostAreas = 64;  // a program that keeps making streams must not fill the device
constexpr int kPendingByte = 0xff;

/// Allocates although another thread may be capturing: this has nothing to do with its graph. Null: no memory left.
uint64_t* new_area(cudaStream_t stream) {
  cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;
  check(cudaThreadExchangeStreamCaptureMode(&mode), "cudaThreadExchangeStreamCaptureMode");
  void* area = nullptr;
  const cudaError_t allocated = cudaMalloc(&area, kKeptBytes);
  const cudaError_t filled =
      allocated == cudaSuccess ? cudaMemsetAsync(area, kPendingByte, kKeptBytes, stream) : allocated;
  check(cudaThreadExchangeStreamCaptureMode(&mode), "cudaThreadExchangeStreamCaptureMode");
  if (allocated == cudaErrorMemoryAllocation) {
    (void)cudaGetLastError();
    return nullptr;
  }
  check(allocated, "cudaMalloc");
  check(filled, "cudaMemsetAsync");
  return static_cast<uint64_t*>(area);
}

/// Kept until the process ends: a stream's identifier is never given to another one. Null: none can be had.
uint64_t* kept_area(cudaStream_t stream) {
  static std::mutex mutex;
  static std::map<std::pair<int, unsigned long long>, uint64_t*> areas;
  int device = 0;
  unsigned long long id = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  check(cudaStreamGetId(stream, &id), "cudaStreamGetId");
  const std::lock_guard lock(mutex);
  const auto found = areas.find({device, id});
  if (found != areas.end()) return found->second;
  if (areas.size() >= kMostAreas) return nullptr;
  uint64_t* area = new_area(stream);
  if (area) areas[{device, id}] = area;
  return area;
}

}  // namespace

uint64_t* exchange_area(size_t bytes, void* workspace, cudaStream_t stream) {
  cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
  check(cudaStreamIsCapturing(stream, &capture), "cudaStreamIsCapturing");
  if (capture == cudaStreamCaptureStatusNone && bytes <= kKeptBytes) {
    if (uint64_t* area = kept_area(stream)) return area;
  }
  check(cudaMemsetAsync(workspace, kPendingByte, bytes, stream), "cudaMemsetAsync");
  return static_cast<uint64_t*>(workspace);
}

}  // namespace iabn::kernels::cuda
