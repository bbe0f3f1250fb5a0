#pragma once

// Resizing on the device, without a word to the host.

#include <cstdint>

#include <ATen/core/Tensor.h>

namespace iabn::segmentation {

/// Rows [top, top + rows) of `map` [C, h, w] resized bilinearly to [C, height, width], as float32 [C, rows, width]:
/// what at::upsample_bilinear2d with align_corners = false gives there, to rounding. A pixel y of the result lies at
/// max(0, (y + 0.5) * h / height - 0.5) of the map, columns alike; no antialiasing.
at::Tensor upsampled_rows(const at::Tensor& map, int64_t height, int64_t width, int64_t top, int64_t rows);

/// [H, W] resized to [height, width]: pixel y is that at floor((y + 0.5) * H / height), in exact arithmetic. Pillow's
/// NEAREST.
at::Tensor resized_nearest(const at::Tensor& map, int64_t height, int64_t width);

}  // namespace iabn::segmentation
