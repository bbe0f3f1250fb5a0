#pragma once

// JPEG and PNG to pixels, with the values that Pillow's `Image.open(...).convert("RGB")` or `("L")` gives.

#include <cstdint>
#include <functional>
#include <span>
#include <string>

#include "iabn/data/geometry.h"
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

/// The part of an image that somebody wants, and what for.
struct Wanted {
  Box box;                        ///< inside the image, at least one pixel
  int64_t height = 0, width = 0;  ///< of the output that the box will be resized to
  bool scaled = false;            ///< a smaller picture will do, see jpeg_scale()
};

/// Called once, when the size of the image is known and none of its pixels.
using Choose = std::function<Wanted(int64_t height, int64_t width)>;

/// At least the wanted part of an image.
struct Part {
  Image image;
  Box box;  ///< the wanted box, in pixels of `image`
};

/// As decode_image(), but no more than the wanted part, as far as the format allows. With Wanted::scaled false the
/// pixels in the box are those of decode_image(), exactly. Of a JPEG file with one scan whose last bytes are an end
/// marker, what lies below the box is not looked at: damage there is not noticed.
Part decode_part(std::span<const uint8_t> bytes, int64_t channels, const std::string& name, const Choose& choose);

/// 8, 4, 2 or 1: with Wanted::scaled a JPEG file is decoded at this many eighths of its size, the least of them at
/// which the box is no smaller than the output. The box's edges are then rounded to whole pixels of that picture.
int jpeg_scale(const Wanted& wanted);

Part decode_jpeg(std::span<const uint8_t> bytes, int64_t channels, const std::string& name, const Choose& choose);
Image decode_png(std::span<const uint8_t> bytes, int64_t channels, const std::string& name);

/// Of the file's header alone, no pixel is read. Throws as decode_image.
struct ImageSize {
  int64_t height = 0, width = 0;
};
ImageSize image_size(std::span<const uint8_t> bytes, const std::string& name);
ImageSize jpeg_size(std::span<const uint8_t> bytes, const std::string& name);
ImageSize png_size(std::span<const uint8_t> bytes, const std::string& name);

/// The numbers that an indexed or grey PNG of at most 8 bits holds, [H, W, 1]: no palette is applied, no grey scaled,
/// transparency ignored. Throws DecodeError that begins with `name` for other files, and colour, alpha and 16 bits.
Image decode_mask(std::span<const uint8_t> png, const std::string& name);

/// Throws DecodeError unless 1 <= width * height <= kMaxPixels.
void check_image_size(int64_t width, int64_t height, const std::string& name);

/// Grey copy of an RGB image.
Image rgb_to_grey(const Image& rgb);

}  // namespace iabn::data
