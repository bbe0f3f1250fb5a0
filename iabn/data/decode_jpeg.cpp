// JPEG through libjpeg-turbo's libjpeg API, with its default (accurate) inverse transform and smooth chroma: the values
// of Pillow. Not through TurboJPEG: it reports a fatal error that follows a warning as a warning, and a truncated file
// as just another warning, so that half-decoded images would pass for good ones.

// jpeglib.h uses FILE and size_t without declaring them.
#include <algorithm>
#include <csetjmp>
#include <cstddef>
#include <cstdio>
#include <utility>

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

// What of the decoder's picture is to be read; in its pixels, which are those of the file only at full scale.
struct Region {
  JDIMENSION left, width, top, bottom;
};

bool start(Decoder& decoder, Region& region) {
  jpeg_decompress_struct& info = decoder.info;
  if (setjmp(decoder.jump) != 0) return false;
  jpeg_start_decompress(&info);
  // Moves the left edge to a block's and widens the region by as much.
  if (region.width < info.output_width) jpeg_crop_scanline(&info, &region.left, &region.width);
  if (region.top > 0) jpeg_skip_scanlines(&info, region.top);
  return true;
}

bool read_pixels(Decoder& decoder, const Region& region, uint8_t* pixels, size_t row_bytes) {
  jpeg_decompress_struct& info = decoder.info;
  if (setjmp(decoder.jump) != 0) return false;
  while (info.output_scanline < region.bottom) {
    JSAMPROW row = pixels + (info.output_scanline - region.top) * row_bytes;
    jpeg_read_scanlines(&info, &row, 1);
  }
  if (info.output_scanline == info.output_height) jpeg_finish_decompress(&info);
  return true;
}

// Interpolated chroma (also of the row above and below) needs neighbours that are decoded, too.
constexpr int64_t kMargin = 16;

bool ends_with_end_marker(std::span<const uint8_t> bytes) {
  return bytes.size() >= 2 && bytes[bytes.size() - 2] == 0xFF && bytes[bytes.size() - 1] == 0xD9;
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

// The box in the picture at `scale` eighths, whose size is height x width. Halves are rounded up on either edge, which
// keeps it as large as its real size rounded down.
Box scaled_box(const Box& box, int64_t scale, int64_t height, int64_t width) {
  const auto edge = [scale](int64_t at, int64_t last) { return std::min((at * scale + 4) / 8, last); };
  const int64_t top = edge(box.top, height - 1), left = edge(box.left, width - 1);
  return {top, left, std::max<int64_t>(edge(box.top + box.height, height) - top, 1),
          std::max<int64_t>(edge(box.left + box.width, width) - left, 1)};
}

}  // namespace

// Halves only. Decoding at the other eighths has no vector code in libjpeg-turbo: files of 2500 x 1900 take 7.5 ms at
// 8/8, 5.7 at 4/8, 5.0 at 2/8, 4.4 at 1/8, but 16.1, 12.8, 10.7 and 6.7 at 7, 6, 5 and 3 (AMD EPYC, one thread).
int jpeg_scale(const Wanted& wanted) {
  int scale = 8;
  while (wanted.scaled && scale > 1 && wanted.box.height * (scale / 2) >= 8 * wanted.height &&
         wanted.box.width * (scale / 2) >= 8 * wanted.width) {
    scale /= 2;
  }
  return scale;
}

ImageSize jpeg_size(std::span<const uint8_t> bytes, const std::string& name) {
  Decoder decoder;
  if (!read_header(decoder, bytes.data(), bytes.size())) {
    throw DecodeError("decode_jpeg", name, std::string("not a readable JPEG: ") + decoder.message);
  }
  check_image_size(decoder.info.image_width, decoder.info.image_height, name);
  return {decoder.info.image_height, decoder.info.image_width};
}

Part decode_jpeg(std::span<const uint8_t> bytes, int64_t channels, const std::string& name, const Choose& choose) {
  Decoder decoder;
  if (!read_header(decoder, bytes.data(), bytes.size())) {
    throw DecodeError("decode_jpeg", name, std::string("not a readable JPEG: ") + decoder.message);
  }
  jpeg_decompress_struct& info = decoder.info;
  check_image_size(info.image_width, info.image_height, name);

  const bool cmyk = info.jpeg_color_space == JCS_CMYK || info.jpeg_color_space == JCS_YCCK;
  const bool grey = info.jpeg_color_space == JCS_GRAYSCALE && channels == 1;
  info.out_color_space = cmyk ? JCS_CMYK : grey ? JCS_GRAYSCALE : JCS_RGB;
  const Wanted wanted = choose(info.image_height, info.image_width);
  const int scale = jpeg_scale(wanted);
  info.scale_num = static_cast<unsigned>(scale);
  info.scale_denom = 8;
  const auto scaled_side = [scale](int64_t side) { return (side * scale + 7) / 8; };
  const int64_t height = scaled_side(info.image_height), width = scaled_side(info.image_width);
  const Box box = scaled_box(wanted.box, scale, height, width);
  const int64_t left = std::max<int64_t>(box.left - kMargin, 0);
  const int64_t right = std::min(box.left + box.width + kMargin, width);
  // Without an end marker at the end, only reading up to it tells whether the file is whole.
  const int64_t bottom = ends_with_end_marker(bytes) ? box.top + box.height : height;
  Region region{static_cast<JDIMENSION>(left), static_cast<JDIMENSION>(right - left),
                static_cast<JDIMENSION>(std::max<int64_t>(box.top - kMargin, 0)), static_cast<JDIMENSION>(bottom)};
  Image image{};
  if (start(decoder, region)) {
    image = make_image(bottom - region.top, info.output_width, cmyk ? 4 : grey ? 1 : 3);
    if (!read_pixels(decoder, region, image.owned.get(), static_cast<size_t>(image.width * image.channels))) image = {};
  }
  if (!image.pixels) throw DecodeError("decode_jpeg", name, std::string("cannot be decoded: ") + decoder.message);
  if (decoder.truncated) throw DecodeError("decode_jpeg", name, "truncated: the data end before the end marker");

  if (cmyk) image = cmyk_to_rgb(image);
  if (channels == 1 && image.channels == 3) image = rgb_to_grey(image);
  return {std::move(image), {box.top - region.top, box.left - region.left, box.height, box.width}};
}

}  // namespace iabn::data
