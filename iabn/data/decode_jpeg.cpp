// JPEG through libjpeg-turbo's libjpeg API, with its default (accurate) inverse transform and smooth chroma: the values
// of Pillow. Not through TurboJPEG: it reports a fatal error that follows a warning as a warning, and a truncated file
// as just another warning, so that half-decoded images would pass for good ones.

// jpeglib.h uses FILE and size_t without declaring them.
#include <csetjmp>
#include <cstddef>
#include <cstdio>

#include <jerror.h>
#include <jpeglib.h>

#include "iabn/data/decode.h"
#include "iabn/data/error.h"

namespace iabn::data {
namespace {

// Real progressive files have about ten scans. Without a limit a small file can hold thousands of scans of a huge
// image: minutes of work.
constexpr int kMaxScans = 500;

// libjpeg reports a fatal error by a long jump, which must not cross anything that has a destructor: whatever calls
// into the library below is a small function of plain values, and this struct releases the library's memory.
struct Decoder {
  jpeg_decompress_struct info{};
  jpeg_error_mgr errors{};
  jpeg_progress_mgr progress{};
  std::jmp_buf jump{};
  char message[JMSG_LENGTH_MAX] = "";
  bool truncated = false;

  Decoder() = default;
  Decoder(const Decoder&) = delete;
  Decoder& operator=(const Decoder&) = delete;
  ~Decoder() { jpeg_destroy_decompress(&info); }  // fine for an all-zero struct, too
};

[[noreturn]] void fail(j_common_ptr info) {
  auto* decoder = static_cast<Decoder*>(info->client_data);
  info->err->format_message(info, decoder->message);
  std::longjmp(decoder->jump, 1);
}

// Level -1 is a warning. Many published photographs have harmless ones; only the end of the data matters.
void note(j_common_ptr info, int level) {
  if (level == -1 && info->err->msg_code == JWRN_JPEG_EOF) static_cast<Decoder*>(info->client_data)->truncated = true;
}

void be_silent(j_common_ptr) {}

void limit_scans(j_common_ptr info) {
  auto* decoder = static_cast<Decoder*>(info->client_data);
  if (decoder->info.input_scan_number > kMaxScans) {
    std::snprintf(decoder->message, sizeof(decoder->message), "more than %d scans", kMaxScans);
    std::longjmp(decoder->jump, 1);
  }
}

bool read_header(Decoder& decoder, const uint8_t* bytes, size_t size) {
  jpeg_decompress_struct& info = decoder.info;
  info.err = jpeg_std_error(&decoder.errors);
  decoder.errors.error_exit = fail;
  decoder.errors.emit_message = note;
  decoder.errors.output_message = be_silent;
  info.client_data = &decoder;
  if (setjmp(decoder.jump) != 0) return false;
  jpeg_create_decompress(&info);
  decoder.progress.progress_monitor = limit_scans;
  info.progress = &decoder.progress;
  jpeg_mem_src(&info, bytes, static_cast<unsigned long>(size));
  jpeg_read_header(&info, TRUE);
  return true;
}

bool read_pixels(Decoder& decoder, uint8_t* pixels, size_t row_bytes) {
  jpeg_decompress_struct& info = decoder.info;
  if (setjmp(decoder.jump) != 0) return false;
  jpeg_start_decompress(&info);
  while (info.output_scanline < info.output_height) {
    JSAMPROW row = pixels + info.output_scanline * row_bytes;
    jpeg_read_scanlines(&info, &row, 1);
  }
  jpeg_finish_decompress(&info);
  return true;
}

// a * b / 255, rounded.
int multiply_255(int a, int b) {
  const int product = a * b + 128;
  return (product + (product >> 8)) >> 8;
}

Image cmyk_to_rgb(const Image& cmyk) {
  Image rgb = make_image(cmyk.height, cmyk.width, 3);
  for (int64_t i = 0; i < cmyk.height * cmyk.width; ++i) {
    const uint8_t* from = cmyk.pixels + 4 * i;
    // Inverted as Adobe writes it: 255 is no ink.
    for (int c = 0; c < 3; ++c) {
      rgb.owned[3 * i + c] = static_cast<uint8_t>(from[3] - multiply_255(255 - from[c], from[3]));
    }
  }
  return rgb;
}

}  // namespace

Image decode_jpeg(std::span<const uint8_t> bytes, int64_t channels, const std::string& name) {
  Decoder decoder;
  if (!read_header(decoder, bytes.data(), bytes.size())) {
    throw DecodeError("decode_jpeg", name, std::string("not a readable JPEG: ") + decoder.message);
  }
  jpeg_decompress_struct& info = decoder.info;
  check_image_size(info.image_width, info.image_height, name);

  const bool cmyk = info.jpeg_color_space == JCS_CMYK || info.jpeg_color_space == JCS_YCCK;
  const bool grey = info.jpeg_color_space == JCS_GRAYSCALE && channels == 1;
  info.out_color_space = cmyk ? JCS_CMYK : grey ? JCS_GRAYSCALE : JCS_RGB;
  Image image = make_image(info.image_height, info.image_width, cmyk ? 4 : grey ? 1 : 3);
  if (!read_pixels(decoder, image.owned.get(), static_cast<size_t>(image.width * image.channels))) {
    throw DecodeError("decode_jpeg", name, std::string("cannot be decoded: ") + decoder.message);
  }
  if (decoder.truncated) throw DecodeError("decode_jpeg", name, "truncated: the data end before the end marker");

  if (cmyk) image = cmyk_to_rgb(image);
  if (channels == 1 && image.channels == 3) image = rgb_to_grey(image);
  return image;
}

}  // namespace iabn::data
