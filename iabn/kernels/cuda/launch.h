#pragma once

// Host side of a launch: the device's size, and the check after each launch.

#include <cuda_runtime_api.h>

#include <stdexcept>
#include <string>

namespace iabn::kernels::cuda {

inline void check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  (void)cudaGetLastError();  // or the next check of an unrelated launch would find it
  throw std::runtime_error(std::string("iabn CUDA kernels: ") + what + ": " + cudaGetErrorName(status) + ": " +
                           cudaGetErrorString(status));
}

/// After every launch; `kernel` names it.
inline void check_launch(const char* kernel) { check(cudaGetLastError(), kernel); }

/// Multiprocessors of the current device. Asks the runtime's cache, not the device; legal while a graph is captured.
inline int multiprocessors() {
  int device = 0;
  int count = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  check(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device), "cudaDeviceGetAttribute");
  return count;
}

}  // namespace iabn::kernels::cuda
