#include "cli/gpu_info.h"

#include <array>
#include <cstddef>
#include <fstream>
#include <regex>

#include <dlfcn.h>

namespace iabn::cli {
namespace {

// The driver's C interface, its few functions that this file calls: asked for at run time, so that the program starts
// on machines without a driver. Types and numbers are those of cuda.h, which never change.
class Driver {
 public:
  Driver() : library_(dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL)) {}

  bool loaded() const { return library_ != nullptr; }

  template <class... Args>
  int call(const char* name, Args... args) const {
    auto* function = reinterpret_cast<int (*)(Args...)>(dlsym(library_, name));
    return function == nullptr ? -1 : function(args...);
  }

 private:
  void* library_;  // stays open: the process may use CUDA through LibTorch as well
};

constexpr int kComputeCapabilityMajor = 75, kComputeCapabilityMinor = 76;

std::string kernel_driver_version() {
  std::ifstream file("/proc/driver/nvidia/version");
  std::string line;
  std::getline(file, line);
  std::smatch match;
  return std::regex_search(line, match, std::regex("[0-9]+\\.[0-9]+(\\.[0-9]+)?")) ? match.str() : "unknown";
}

}  // namespace

CudaDriver query_cuda_driver() {
  CudaDriver result;
  const Driver driver;
  if (!driver.loaded()) {
    result.problem = "no NVIDIA driver (libcuda.so.1 is missing)";
    return result;
  }
  result.loaded = true;
  if (const int status = driver.call("cuInit", 0u); status != 0) {
    result.problem = "the NVIDIA driver is there but does not start (cuInit returned " + std::to_string(status) + ")";
    return result;
  }
  result.version = kernel_driver_version();
  driver.call("cuDriverGetVersion", &result.cuda);
  int count = 0;
  driver.call("cuDeviceGetCount", &count);
  for (int ordinal = 0; ordinal < count; ++ordinal) {
    GpuInfo gpu;
    int device = 0;
    std::array<char, 128> name{};
    size_t bytes = 0;
    driver.call("cuDeviceGet", &device, ordinal);
    driver.call("cuDeviceGetName", name.data(), static_cast<int>(name.size()), device);
    driver.call("cuDeviceTotalMem_v2", &bytes, device);
    driver.call("cuDeviceGetAttribute", &gpu.major, kComputeCapabilityMajor, device);
    driver.call("cuDeviceGetAttribute", &gpu.minor, kComputeCapabilityMinor, device);
    gpu.name = name.data();
    gpu.bytes = static_cast<int64_t>(bytes);
    result.devices.push_back(gpu);
  }
  result.found = count > 0;
  if (!result.found) result.problem = "the NVIDIA driver sees no device";
  return result;
}

int loaded_cuda_runtime() {
  auto* function = reinterpret_cast<int (*)(int*)>(dlsym(RTLD_DEFAULT, "cudaRuntimeGetVersion"));
  int version = 0;
  return function != nullptr && function(&version) == 0 ? version : 0;
}

std::string cuda_version(int number) {
  return std::to_string(number / 1000) + "." + std::to_string(number % 1000 / 10);
}

}  // namespace iabn::cli
