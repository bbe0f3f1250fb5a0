#include "iabn/data/decode.h"

#include <algorithm>
#include <array>
#include <utility>

#include "iabn/data/error.h"

namespace iabn::data {
namespace {

constexpr std::array<uint8_t, 3> kJpegStart = {0xFF, 0xD8, 0xFF};
constexpr std::array<uint8_t, 8> kPngStart = {0x89, 'P', 'N', 'G', '\r', '\n', 0x1A, '\n'};

template <size_t N>
bool starts_with(std::span<const uint8_t> bytes, const std::array<uint8_t, N>& start) {
  return bytes.size() >= N && std::equal(start.begin(), start.end(), bytes.begin());
}

[[noreturn]] void throw_neither(std::span<const uint8_t> bytes, const std::string& name) {
  const char* got = bytes.empty() ? "an empty file" : "something else";
  throw DecodeError("decode_image", name, std::string("expected JPEG or PNG, got ") + got);
}

}  // namespace

Part decode_part(std::span<const uint8_t> bytes, int64_t channels, const std::string& name, const Choose& choose) {
  if (starts_with(bytes, kJpegStart)) return decode_jpeg(bytes, channels, name, choose);
  if (starts_with(bytes, kPngStart)) {
    Image image = decode_png(bytes, channels, name);
    const Box box = choose(image.height, image.width).box;
    return {std::move(image), box};
  }
  throw_neither(bytes, name);
}

ImageSize image_size(std::span<const uint8_t> bytes, const std::string& name) {
  if (starts_with(bytes, kJpegStart)) return jpeg_size(bytes, name);
  if (starts_with(bytes, kPngStart)) return png_size(bytes, name);
  throw_neither(bytes, name);
}

Image decode_image(std::span<const uint8_t> bytes, int64_t channels, const std::string& name) {
  const auto whole = [](int64_t height, int64_t width) { return Wanted{{0, 0, height, width}, height, width}; };
  return decode_part(bytes, channels, name, whole).image;
}

void check_image_size(int64_t width, int64_t height, const std::string& name) {
  if (width >= 1 && height >= 1 && width <= kMaxPixels / height) return;
  throw DecodeError("decode_image", name,
                    "expected 1 to " + std::to_string(kMaxPixels) + " pixels, got " + std::to_string(width) + " x " +
                        std::to_string(height));
}

Image rgb_to_grey(const Image& rgb) {
  Image grey = make_image(rgb.height, rgb.width, 1);
  const uint8_t* from = rgb.pixels;
  for (int64_t i = 0; i < grey.bytes(); ++i, from += 3) {
    // 0.299, 0.587, 0.114 in 16-bit fixed point; they add up to 65536, so that grey stays grey.
    grey.owned[i] = static_cast<uint8_t>((from[0] * 19595 + from[1] * 38470 + from[2] * 7471 + 0x8000) >> 16);
  }
  return grey;
}

}  // namespace iabn::data
