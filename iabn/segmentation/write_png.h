#pragma once

// Pictures as PNG files in memory.

#include <array>
#include <cstdint>
#include <span>
#include <string>

#include "iabn/data/image.h"

namespace iabn::segmentation {

using Color = std::array<uint8_t, 3>;  // red, green, blue

/// 8 bits: RGB for 3 channels; for 1 grey or, with a palette of at most 256 colours, indices into it. Throws
/// std::invalid_argument for anything else, an empty image and an index outside the palette; std::runtime_error where
/// libspng fails.
std::string png_bytes(const data::Image& image, std::span<const Color> palette = {});

}  // namespace iabn::segmentation
