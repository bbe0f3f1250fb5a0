// PNG through libspng.

#include <spng.h>

#include <memory>
#include <vector>

#include "iabn/data/decode.h"
#include "iabn/data/error.h"

namespace iabn::data {
namespace {

struct Free {
  void operator()(spng_ctx* context) const { spng_ctx_free(context); }
};

// DEFLATE expands its input at most 1032 times: fewer bytes than that cannot hold the picture, and no memory is asked
// for on behalf of a short file that declares a huge one.
constexpr int64_t kMaxExpansion = 1032;

// One file, its header read and its size checked.
class PngFile {
 public:
  PngFile(std::span<const uint8_t> bytes, const std::string& name) : context_(spng_ctx_new(0)), name_(name) {
    if (!context_) throw DecodeError("decode_png", name, "no decoder: out of memory");
    // A chunk of text or colour profile is kept in memory; 64 MB is far above any real one.
    spng_set_chunk_limits(context_.get(), size_t{1} << 26, size_t{1} << 26);
    check(spng_set_png_buffer(context_.get(), bytes.data(), bytes.size()), "not a readable PNG");
    check(spng_get_ihdr(context_.get(), &header_), "not a readable PNG");
    check_image_size(header_.width, header_.height, name);
    const int64_t packed = (int64_t{header_.width} * header_.bit_depth + 7) / 8 * header_.height;
    if (packed / kMaxExpansion > static_cast<int64_t>(bytes.size())) {
      throw DecodeError("decode_png", name,
                        "truncated: " + std::to_string(bytes.size()) + " bytes cannot hold " +
                            std::to_string(header_.width) + " x " + std::to_string(header_.height) + " pixels");
    }
  }

  const spng_ihdr& header() const { return header_; }

  void decode(spng_format format, uint8_t* out, int64_t bytes) {
    check(spng_decode_image(context_.get(), out, static_cast<size_t>(bytes), format, 0), "cannot be decoded");
  }

 private:
  void check(int status, const char* what) const {
    if (status != 0) throw DecodeError("decode_png", name_, std::string(what) + ": " + spng_strerror(status));
  }

  std::unique_ptr<spng_ctx, Free> context_;
  const std::string& name_;
  spng_ihdr header_{};
};

const char* color_name(int type) {
  switch (type) {
    case SPNG_COLOR_TYPE_GRAYSCALE:
      return "grey";
    case SPNG_COLOR_TYPE_INDEXED:
      return "indexed";
    case SPNG_COLOR_TYPE_GRAYSCALE_ALPHA:
      return "grey with alpha";
    case SPNG_COLOR_TYPE_TRUECOLOR_ALPHA:
      return "RGB with alpha";
    default:
      return "RGB";
  }
}

}  // namespace

ImageSize png_size(std::span<const uint8_t> bytes, const std::string& name) {
  const PngFile file(bytes, name);
  return {file.header().height, file.header().width};
}

Image decode_png(std::span<const uint8_t> bytes, int64_t channels, const std::string& name) {
  PngFile file(bytes, name);
  Image image = make_image(file.header().height, file.header().width, 3);
  file.decode(SPNG_FMT_RGB8, image.owned.get(), image.bytes());
  return channels == 1 ? rgb_to_grey(image) : std::move(image);
}

Image decode_mask(std::span<const uint8_t> png, const std::string& name) {
  PngFile file(png, name);
  const spng_ihdr& header = file.header();
  const int type = header.color_type, bits = header.bit_depth;
  if ((type != SPNG_COLOR_TYPE_GRAYSCALE && type != SPNG_COLOR_TYPE_INDEXED) || bits > 8) {
    throw DecodeError("decode_mask", name,
                      std::string("expected an indexed or grey PNG of at most 8 bits, whose pixels are class numbers, "
                                  "got ") +
                          color_name(type) + " of " + std::to_string(bits) +
                          " bits; write the number of each pixel's class");
  }
  Image mask = make_image(header.height, header.width, 1);
  if (bits == 8) {
    file.decode(SPNG_FMT_RAW, mask.owned.get(), mask.bytes());
    return mask;
  }
  // Several pixels in a byte, the first in its highest bits; every row begins a new one.
  const int64_t row_bytes = (mask.width * bits + 7) / 8;
  std::vector<uint8_t> packed(static_cast<size_t>(row_bytes * mask.height));
  file.decode(SPNG_FMT_RAW, packed.data(), row_bytes * mask.height);
  uint8_t* out = mask.owned.get();
  for (int64_t y = 0; y < mask.height; ++y) {
    const uint8_t* row = packed.data() + y * row_bytes;
    for (int64_t x = 0; x < mask.width; ++x) {
      const int64_t bit = x * bits;
      *out++ = static_cast<uint8_t>((row[bit / 8] >> (8 - bits - bit % 8)) & ((1 << bits) - 1));
    }
  }
  return mask;
}

}  // namespace iabn::data
