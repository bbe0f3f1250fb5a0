#pragma once

// Pixels of an image without their owner.

#include <cstdint>

#include "iabn/data/geometry.h"
#include "iabn/data/image.h"

namespace iabn::data {

/// 8-bit pixels [height, width, channels], channels interleaved, rows row_bytes apart.
struct View {
  int64_t height = 0;
  int64_t width = 0;
  int64_t channels = 0;
  int64_t row_bytes = 0;
  const uint8_t* pixels = nullptr;

  View() = default;
  /// A box inside the image, which must live as long.
  View(const Image& image, const Box& box)
      : height(box.height),
        width(box.width),
        channels(image.channels),
        row_bytes(image.width * image.channels),
        pixels(image.pixels + box.top * row_bytes + box.left * channels) {}
};

}  // namespace iabn::data
