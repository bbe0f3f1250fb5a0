#pragma once

// Which part of an image becomes the output, in whole pixels: no image data here. The arithmetic is torchvision's, so
// that results agree with networks trained there.

#include <cstdint>

#include "iabn/data/random.h"

namespace iabn::data {

/// Rows [top, top + height) and columns [left, left + width). May reach outside the image where a function says so.
struct Box {
  int64_t top = 0;
  int64_t left = 0;
  int64_t height = 0;
  int64_t width = 0;
};

/// Size after scaling the shorter side to `shorter`, the longer one rounded down. Only height and width are set.
Box scaled_size(int64_t height, int64_t width, int64_t shorter);

/// A random box inside the image: area 0.08 to 1 of the image's, aspect ratio 3/4 to 4/3; after ten misses the largest
/// central box of a permitted aspect ratio.
Box random_resized_box(int64_t height, int64_t width, Random& random);

/// The central size x size square; reaches outside an image that is smaller.
Box center_box(int64_t height, int64_t width, int64_t size);

/// A random size x size square of the image padded on every side; central where even that is smaller. Reaches outside.
Box random_padded_box(int64_t height, int64_t width, int64_t size, int64_t padding, Random& random);

}  // namespace iabn::data
