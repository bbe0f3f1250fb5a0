#pragma once

// Classes as colours.

#include <cstdint>
#include <span>

#include "iabn/data/image.h"
#include "iabn/segmentation/write_png.h"

namespace iabn::segmentation {

/// The class colours half over the picture: (value + colour) / 2, rounded down, in each channel; RGB. picture: grey or
/// RGB; labels: [height, width], below colors.size().
data::Image overlay(const data::Image& picture, const uint8_t* labels, std::span<const Color> colors);

/// confidence in [0, 1] x 255, rounded down; NaN gives 0.
data::Image confidence_image(const float* confidence, int64_t height, int64_t width);

}  // namespace iabn::segmentation
