#pragma once

// What the sweeps of plans share: device memory with reproducible contents, and how far two tensors are apart.

#include <cuda_runtime.h>

#include <cstdint>
#include <stdexcept>

namespace iabn::ladder {

inline void check(cudaError_t status) {
  if (status != cudaSuccess) throw std::runtime_error(cudaGetErrorString(status));
}

/// Uniform numbers in [-1, 1) + shift.
template <class T>
__global__ void fill(T* data, int64_t size, unsigned seed, float shift) {
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < size; i += int64_t{gridDim.x} * blockDim.x) {
    unsigned h = static_cast<unsigned>(i) * 2654435761u + seed;
    h = (h ^ (h >> 15)) * 2246822519u;
    h ^= h >> 13;
    data[i] = static_cast<T>(static_cast<float>(h) * 0x1p-31f - 1.f + shift);
  }
}

/// Adds to sums[0] the squares of a - b, NaN as a large number, and to sums[1] those of b.
template <class T>
__global__ void distance(const T* a, const T* b, int64_t size, double* sums) {
  double difference = 0, magnitude = 0;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < size; i += int64_t{gridDim.x} * blockDim.x) {
    const double d = static_cast<double>(static_cast<float>(a[i])) - static_cast<double>(static_cast<float>(b[i]));
    difference += d == d ? d * d : 1e30;
    magnitude += static_cast<double>(static_cast<float>(b[i])) * static_cast<double>(static_cast<float>(b[i]));
  }
  for (int lane = 16; lane > 0; lane /= 2) {
    difference += __shfl_xor_sync(0xffffffffu, difference, lane);
    magnitude += __shfl_xor_sync(0xffffffffu, magnitude, lane);
  }
  if (threadIdx.x % 32 != 0) return;
  atomicAdd(sums, difference);
  atomicAdd(sums + 1, magnitude);
}

inline char* allocate(size_t bytes) {
  void* p = nullptr;
  check(cudaMalloc(&p, bytes));
  return static_cast<char*>(p);
}

}  // namespace iabn::ladder
