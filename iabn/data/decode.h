#pragma once

// JPEG and PNG to pixels, with the values that Pillow's `Image.open(...).convert("RGB")` or `("L")` gives.

#include <cstdint>
#include <span>
#include <string>

#include "iabn/data/image.h"

namespace iabn::data {

/// Decodes a file's bytes by their content, whatever the file is called. channels 3 gives RGB, 1 gives grey
/// (ITU-R 601 luma of the RGB values).
///  - JPEG: baseline and progressive; grey, YCbCr, RGB, CMYK and YCCK, the last two inverted as Adobe writes them.
///    Damage that the decoder can pass over is passed over; a file without an end marker is an error, as in Pillow.
///  - PNG: every colour type and depth; transparency is dropped; 16-bit samples keep their high byte (Pillow does the
///    same for colour, but clips 16-bit grey at 255, a defect not copied).
///  - EXIF orientation and colour profiles are not applied.
/// Throws DecodeError that begins with `name` for anything else, and above kMaxPixels.
Image decode_image(std::span<const uint8_t> bytes, int64_t channels, const std::string& name);

Image decode_jpeg(std::span<const uint8_t> bytes, int64_t channels, const std::string& name);
Image decode_png(std::span<const uint8_t> bytes, int64_t channels, const std::string& name);

/// Throws DecodeError unless 1 <= width * height <= kMaxPixels.
void check_image_size(int64_t width, int64_t height, const std::string& name);

/// Grey copy of an RGB image.
Image rgb_to_grey(const Image& rgb);

}  // namespace iabn::data
