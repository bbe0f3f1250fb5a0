#pragma once

// What the CUDA driver says about itself and its devices; works in a build without CUDA, too.

#include <cstdint>
#include <string>
#include <vector>

namespace iabn::cli {

struct GpuInfo {
  std::string name;
  int major = 0, minor = 0;  // compute capability
  int64_t bytes = 0;         // of memory
};

struct CudaDriver {
  bool loaded = false;  // libcuda.so.1 is there
  bool found = false;   // and a device answers
  std::string version;  // of the kernel driver, "580.65.06"
  int cuda = 0;         // newest CUDA that it supports, 13000 for 13.0
  std::string problem;  // where not found: what the driver said
  std::vector<GpuInfo> devices;
};

CudaDriver query_cuda_driver();

/// The CUDA runtime that this process has loaded with LibTorch, 13000 for 13.0; 0 where it has none.
int loaded_cuda_runtime();

/// 13000 -> "13.0".
std::string cuda_version(int number);

}  // namespace iabn::cli
