#include "iabn/kernels/cuda/device.h"

#include <cstddef>
#include <vector>

#include "iabn/kernels/cuda/exchange.cuh"
#include "iabn/kernels/cuda/launch.h"

namespace iabn::kernels::cuda {

#if defined(IABN_CUDA_SM90A)
namespace {

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
                  d.multiprocessors <= Exchange::kMostBlocks;
  }
  return result;
}

}  // namespace

Device current_device() {
  static const std::vector<Device> devices = all_devices();
  int device = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  return devices.at(static_cast<size_t>(device));
}
#else
Device current_device() { return {}; }
#endif

}  // namespace iabn::kernels::cuda
