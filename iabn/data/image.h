#pragma once

// One decoded image in memory.

#include <cstdint>
#include <memory>

namespace iabn::data {

/// Refused above this, before any memory is asked for: a few bytes of a hostile file can declare any size.
inline constexpr int64_t kMaxPixels = int64_t{1} << 28;

/// 8-bit pixels [height, width, channels], dense, channels interleaved; 3 channels are RGB, 1 is grey.
struct Image {
  int64_t height = 0;
  int64_t width = 0;
  int64_t channels = 0;
  const uint8_t* pixels = nullptr;     ///< points into `owned`, or into the dataset that gave the image
  std::unique_ptr<uint8_t[]> owned{};  ///< null where the pixels belong to the dataset

  int64_t bytes() const { return height * width * channels; }
};

/// An image with memory of its own, its pixels not set.
inline Image make_image(int64_t height, int64_t width, int64_t channels) {
  Image image{height, width, channels};
  image.owned = std::make_unique_for_overwrite<uint8_t[]>(static_cast<size_t>(image.bytes()));
  image.pixels = image.owned.get();
  return image;
}

}  // namespace iabn::data
