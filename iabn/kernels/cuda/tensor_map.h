#pragma once

// Descriptions of tensors for the copy engine. The driver's encoder is looked up at run time, so that the library loads
// on machines without a driver. Addresses and the bytes of rows and of boxes are multiples of 16; a box has at most 256
// elements in each direction. Both throw std::runtime_error.

#include <cuda.h>

#include <cstddef>
#include <cstdint>

namespace iabn::kernels::cuda {

/// [rows, channels] in memory, fetched in boxes of [box_rows, box_channels]; element_bytes 2 or 4.
CUtensorMap row_map(const void* address, size_t element_bytes, int64_t rows, int64_t channels, int box_rows,
                    int box_channels);

/// A tensor of 8-byte elements, the innermost dimension first; strides in bytes.
struct WordTensor {
  int64_t sizes[3];
  int64_t strides[2];  // of the second and the third dimension
  int box[3];
};
CUtensorMap word_map(const void* address, const WordTensor& tensor);

}  // namespace iabn::kernels::cuda
