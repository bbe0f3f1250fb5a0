#pragma once

// Descriptions of tensors for the copy engine.

#include <cuda.h>

#include <cstddef>
#include <cstdint>

namespace iabn::kernels::cuda {

/// [rows, channels] in memory, fetched in boxes of [box_rows, box_channels]; element_bytes 2 or 4. The address and a
/// row's bytes are multiples of 16, box_rows at most 256. The driver's encoder is looked up at run time, so that the
/// library loads on machines without a driver. Throws std::runtime_error.
CUtensorMap row_map(const void* address, size_t element_bytes, int64_t rows, int64_t channels, int box_rows,
                    int box_channels);

}  // namespace iabn::kernels::cuda
