#include "data_support.h"

#include <cstdio>  // before jpeglib.h, which needs FILE
#include <cstdlib>

#include <jpeglib.h>
#include <spng.h>
#include <zlib.h>

#include <array>
#include <chrono>
#include <cmath>
#include <cstring>
#include <fstream>
#include <stdexcept>
#include <thread>

#include "iabn/data/error.h"
#include "iabn/data/random.h"

namespace iabn::data::test {

namespace fs = std::filesystem;

TempFolder::TempFolder() {
  std::string name = (fs::temp_directory_path() / "iabn-data-XXXXXX").string();
  if (mkdtemp(name.data()) == nullptr) throw std::runtime_error("no temporary folder");
  path_ = name;
}

TempFolder::~TempFolder() {
  std::error_code ignored;
  fs::remove_all(path_, ignored);
}

void write_file(const fs::path& path, const Bytes& bytes) {
  fs::create_directories(path.parent_path());
  std::ofstream file(path, std::ios::binary);
  file.write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
  if (!file) throw std::runtime_error("cannot write " + path.string());
}

Image gradient(int64_t height, int64_t width, int64_t channels) {
  Image image = make_image(height, width, channels);
  for (int64_t y = 0; y < height; ++y) {
    for (int64_t x = 0; x < width; ++x) {
      for (int64_t c = 0; c < channels; ++c) {
        image.owned[(y * width + x) * channels + c] =
            static_cast<uint8_t>(20 + 30 * c + 90 * y / height + 40 * x / width);
      }
    }
  }
  return image;
}

Image noise(int64_t height, int64_t width, int64_t channels, uint64_t seed) {
  Image image = make_image(height, width, channels);
  Random random(seed, 0, 0);
  for (int64_t i = 0; i < image.bytes(); ++i) image.owned[i] = static_cast<uint8_t>(random.below(256));
  return image;
}

Image constant(int64_t height, int64_t width, int64_t channels, uint8_t value) {
  Image image = make_image(height, width, channels);
  std::memset(image.owned.get(), value, static_cast<size_t>(image.bytes()));
  return image;
}

Bytes encode_jpeg(const Image& image, const JpegOptions& options) {
  jpeg_compress_struct info{};
  jpeg_error_mgr errors{};
  info.err = jpeg_std_error(&errors);
  jpeg_create_compress(&info);
  unsigned char* buffer = nullptr;
  unsigned long size = 0;
  jpeg_mem_dest(&info, &buffer, &size);
  info.image_width = static_cast<JDIMENSION>(image.width);
  info.image_height = static_cast<JDIMENSION>(image.height);
  info.input_components = static_cast<int>(image.channels);
  info.in_color_space = image.channels == 1 ? JCS_GRAYSCALE : image.channels == 3 ? JCS_RGB : JCS_CMYK;
  jpeg_set_defaults(&info);
  jpeg_set_quality(&info, options.quality, TRUE);
  if (image.channels == 3) {
    info.comp_info[0].h_samp_factor = options.h_samples;
    info.comp_info[0].v_samp_factor = options.v_samples;
  }
  info.restart_in_rows = static_cast<int>(options.restart_rows);
  if (options.progressive) jpeg_simple_progression(&info);
  jpeg_start_compress(&info, TRUE);
  if (options.exif_orientation != 0) {
    // "Exif", then a big-endian TIFF header and one directory with the one entry 0x0112.
    Bytes exif = {'E', 'x', 'i', 'f', 0, 0, 'M', 'M', 0, 42, 0, 0, 0, 8, 0, 1, 1, 0x12, 0, 3, 0, 0, 0, 1, 0};
    exif.insert(exif.end(), {static_cast<uint8_t>(options.exif_orientation), 0, 0, 0, 0, 0, 0});
    jpeg_write_marker(&info, JPEG_APP0 + 1, exif.data(), static_cast<unsigned>(exif.size()));
  }
  while (info.next_scanline < info.image_height) {
    JSAMPROW row = const_cast<uint8_t*>(image.pixels) + int64_t{info.next_scanline} * image.width * image.channels;
    jpeg_write_scanlines(&info, &row, 1);
  }
  jpeg_finish_compress(&info);
  jpeg_destroy_compress(&info);
  Bytes bytes(buffer, buffer + size);
  std::free(buffer);
  return bytes;
}

Bytes encode_png_raw(uint32_t height, uint32_t width, int color_type, int bit_depth, const Bytes& rows,
                     const std::vector<std::array<uint8_t, 3>>& palette, bool interlaced) {
  spng_ctx* context = spng_ctx_new(SPNG_CTX_ENCODER);
  spng_set_option(context, SPNG_ENCODE_TO_BUFFER, 1);
  spng_ihdr header{width, height, static_cast<uint8_t>(bit_depth), static_cast<uint8_t>(color_type),
                   0,     0,      static_cast<uint8_t>(interlaced)};
  int status = spng_set_ihdr(context, &header);
  if (!palette.empty()) {
    spng_plte table{};
    table.n_entries = static_cast<uint32_t>(palette.size());
    for (size_t i = 0; i < palette.size(); ++i) table.entries[i] = {palette[i][0], palette[i][1], palette[i][2], 255};
    status |= spng_set_plte(context, &table);
  }
  status |= spng_encode_image(context, rows.data(), rows.size(), SPNG_FMT_RAW, SPNG_ENCODE_FINALIZE);
  size_t size = 0;
  int error = 0;
  auto* buffer = static_cast<uint8_t*>(spng_get_png_buffer(context, &size, &error));
  spng_ctx_free(context);
  if (status != 0 || buffer == nullptr) throw std::runtime_error("encode_png failed");
  Bytes bytes(buffer, buffer + size);
  std::free(buffer);
  return bytes;
}

Bytes encode_png(const Image& image) {
  return encode_png_raw(static_cast<uint32_t>(image.height), static_cast<uint32_t>(image.width),
                        image.channels == 3 ? SPNG_COLOR_TYPE_TRUECOLOR : SPNG_COLOR_TYPE_GRAYSCALE, 8,
                        Bytes(image.pixels, image.pixels + image.bytes()));
}

Bytes encode_idx(const std::vector<uint32_t>& dims, const Bytes& data) {
  Bytes bytes = {0, 0, 8, static_cast<uint8_t>(dims.size())};
  for (const uint32_t dim : dims) {
    for (int shift = 24; shift >= 0; shift -= 8) bytes.push_back(static_cast<uint8_t>(dim >> shift));
  }
  bytes.insert(bytes.end(), data.begin(), data.end());
  return bytes;
}

Bytes gzip(const Bytes& bytes) {
  z_stream stream{};
  constexpr int kGzipWindow = 15 + 16;
  deflateInit2(&stream, Z_DEFAULT_COMPRESSION, Z_DEFLATED, kGzipWindow, 8, Z_DEFAULT_STRATEGY);
  Bytes zipped(deflateBound(&stream, bytes.size()));
  stream.next_in = const_cast<uint8_t*>(bytes.data());
  stream.avail_in = static_cast<unsigned>(bytes.size());
  stream.next_out = zipped.data();
  stream.avail_out = static_cast<unsigned>(zipped.size());
  deflate(&stream, Z_FINISH);
  zipped.resize(stream.total_out);
  deflateEnd(&stream);
  return zipped;
}

void write_image_folder(const fs::path& root, int per_class) {
  for (const char* split : {"train", "val"}) {
    for (int label = 0; label < 2; ++label) {
      for (int i = 0; i < per_class; ++i) {
        const fs::path path = root / split / (label == 0 ? "ant" : "bee") / ("image" + std::to_string(i) + ".png");
        write_file(path, encode_png(constant(40, 48, 3, static_cast<uint8_t>(10 * i + 100 * label))));
      }
    }
  }
}

void write_idx_folder(const fs::path& root, uint32_t count, bool zipped) {
  Bytes pixels;
  Bytes labels;
  for (uint32_t i = 0; i < count; ++i) {
    pixels.insert(pixels.end(), 30, static_cast<uint8_t>(i));
    labels.push_back(static_cast<uint8_t>(i % 10));
  }
  const Bytes image_file = encode_idx({count, 6, 5}, pixels);
  const Bytes label_file = encode_idx({count}, labels);
  const std::string end = zipped ? "-ubyte.gz" : "-ubyte";
  for (const std::string prefix : {"train", "t10k"}) {
    write_file(root / (prefix + "-images-idx3" + end), zipped ? gzip(image_file) : image_file);
    write_file(root / (prefix + "-labels-idx1" + end), zipped ? gzip(label_file) : label_file);
  }
}

InputOptions plain_input(int64_t channels) {
  InputOptions options;
  options.channels = channels;
  options.mean.assign(static_cast<size_t>(channels), 0.0);
  options.std.assign(static_cast<size_t>(channels), 1.0);
  return options;
}

InputOptions small_input() {
  InputOptions options = plain_input(1);
  options.scale_val = -1;
  options.crop_train = 6;
  options.crop_val = 6;
  options.padding = 1;
  options.augmentation = Augmentation::pad_crop;
  return options;
}

std::vector<float> run(const Transform& transform, const Image& image, uint64_t seed, bool channels_last) {
  std::vector<float> out(static_cast<size_t>(transform.channels() * transform.size() * transform.size()), -1e9f);
  transform(image, Random(seed, 0, 0), channels_last, out.data());
  return out;
}

std::vector<int> run_bytes(const Transform& transform, const Image& image, uint64_t seed) {
  std::vector<int> bytes;
  for (const float value : run(transform, image, seed)) bytes.push_back(static_cast<int>(std::lround(value * 255)));
  return bytes;
}

Image Numbers::image(int64_t index) const {
  ++read;
  if (slow) std::this_thread::sleep_for(std::chrono::milliseconds(2));
  if (bad.contains(index)) throw DecodeError("test", name(index), "bad image");
  if (index == broken) throw std::runtime_error("disk on fire");
  Image image = gradient(6, 7, 1);
  image.owned[0] = static_cast<uint8_t>(index);
  return image;
}

void Numbers::wait_until_read(int64_t count) const {
  for (int i = 0; i < 10000 && read < count; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(1));
}

}  // namespace iabn::data::test
