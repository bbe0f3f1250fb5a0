#pragma once

// Bilinear resizing with antialiasing, within 1 of Pillow's values (2 for one in tens of millions: either pass rounds).

#include "iabn/data/geometry.h"
#include "iabn/data/image.h"

namespace iabn::data {

/// The part `box` of an image (inside it), resized to [height, width].
Image resize(const Image& image, const Box& box, int64_t height, int64_t width);

}  // namespace iabn::data
