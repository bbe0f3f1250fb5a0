#pragma once

// Where a launch finds its exchange words (exchange.cuh).

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

namespace iabn::kernels::cuda {

/// `bytes` of device memory with every byte 0xff, for a launch on `stream` that leaves it so. As a rule an area that
/// this process keeps for the device and the stream, 2 MiB from the first use on: launches of one stream run one after
/// the other. While the stream is captured, for larger areas, and where no memory is left, `workspace`, which is filled
/// first: a graph may be replayed on any stream. Throws std::runtime_error.
uint64_t* exchange_area(size_t bytes, void* workspace, cudaStream_t stream);

}  // namespace iabn::kernels::cuda
