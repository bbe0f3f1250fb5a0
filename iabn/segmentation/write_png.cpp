#include "iabn/segmentation/write_png.h"

#include <spng.h>

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <stdexcept>

namespace iabn::segmentation {
namespace {

struct FreeContext {
  void operator()(spng_ctx* context) const { spng_ctx_free(context); }
};
struct FreeMemory {
  void operator()(void* memory) const { std::free(memory); }
};

void check(bool ok, const std::string& text) {
  if (!ok) throw std::invalid_argument("png_bytes: " + text);
}

void check_status(int status) {
  if (status != 0) throw std::runtime_error(std::string("png_bytes: ") + spng_strerror(status));
}

void check_palette(const data::Image& image, std::span<const Color> palette) {
  if (palette.empty()) return;
  check(image.channels == 1 && palette.size() <= 256, "a palette is for 1 channel and has at most 256 colours");
  const uint8_t highest = *std::max_element(image.pixels, image.pixels + image.bytes());
  check(highest < palette.size(),
        "the palette has " + std::to_string(palette.size()) + " colours, got the index " + std::to_string(highest));
}

}  // namespace

std::string png_bytes(const data::Image& image, std::span<const Color> palette) {
  check(image.channels == 1 || image.channels == 3, "expected 1 or 3 channels, got " + std::to_string(image.channels));
  check(image.height > 0 && image.width > 0, "the image is empty");
  check_palette(image, palette);
  const std::unique_ptr<spng_ctx, FreeContext> context(spng_ctx_new(SPNG_CTX_ENCODER));
  if (!context) throw std::runtime_error("png_bytes: out of memory");
  spng_set_option(context.get(), SPNG_ENCODE_TO_BUFFER, 1);
  // Classes are not a gradient: a difference of neighbours compresses no better than themselves.
  if (image.channels == 1) spng_set_option(context.get(), SPNG_FILTER_CHOICE, SPNG_DISABLE_FILTERING);
  spng_ihdr header{};
  header.width = static_cast<uint32_t>(image.width);
  header.height = static_cast<uint32_t>(image.height);
  header.bit_depth = 8;
  header.color_type = image.channels == 3 ? SPNG_COLOR_TYPE_TRUECOLOR
                      : palette.empty()   ? SPNG_COLOR_TYPE_GRAYSCALE
                                          : SPNG_COLOR_TYPE_INDEXED;
  check_status(spng_set_ihdr(context.get(), &header));
  if (!palette.empty()) {
    spng_plte colors{};
    colors.n_entries = static_cast<uint32_t>(palette.size());
    for (size_t i = 0; i < palette.size(); ++i) {
      colors.entries[i] = {palette[i][0], palette[i][1], palette[i][2], 0};
    }
    check_status(spng_set_plte(context.get(), &colors));
  }
  check_status(spng_encode_image(context.get(), image.pixels, static_cast<size_t>(image.bytes()), SPNG_FMT_PNG,
                                 SPNG_ENCODE_FINALIZE));
  size_t size = 0;
  int status = 0;
  const std::unique_ptr<void, FreeMemory> bytes(spng_get_png_buffer(context.get(), &size, &status));
  check_status(status);
  return {static_cast<const char*>(bytes.get()), size};
}

}  // namespace iabn::segmentation
