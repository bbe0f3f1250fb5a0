// PNG through libspng.

#include <spng.h>

#include <memory>

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

void check(int status, const std::string& name, const char* what) {
  if (status != 0) throw DecodeError("decode_png", name, std::string(what) + ": " + spng_strerror(status));
}

}  // namespace

Image decode_png(std::span<const uint8_t> bytes, int64_t channels, const std::string& name) {
  const std::unique_ptr<spng_ctx, Free> context(spng_ctx_new(0));
  if (!context) throw DecodeError("decode_png", name, "no decoder: out of memory");
  // A chunk of text or colour profile is kept in memory; 64 MB is far above any real one.
  spng_set_chunk_limits(context.get(), size_t{1} << 26, size_t{1} << 26);
  check(spng_set_png_buffer(context.get(), bytes.data(), bytes.size()), name, "not a readable PNG");
  spng_ihdr header{};
  check(spng_get_ihdr(context.get(), &header), name, "not a readable PNG");
  check_image_size(header.width, header.height, name);
  const int64_t packed = (int64_t{header.width} * header.bit_depth + 7) / 8 * header.height;
  if (packed / kMaxExpansion > static_cast<int64_t>(bytes.size())) {
    throw DecodeError("decode_png", name,
                      "truncated: " + std::to_string(bytes.size()) + " bytes cannot hold " +
                          std::to_string(header.width) + " x " + std::to_string(header.height) + " pixels");
  }

  Image image = make_image(header.height, header.width, 3);
  check(spng_decode_image(context.get(), image.owned.get(), static_cast<size_t>(image.bytes()), SPNG_FMT_RGB8, 0), name,
        "cannot be decoded");
  return channels == 1 ? rgb_to_grey(image) : std::move(image);
}

}  // namespace iabn::data
