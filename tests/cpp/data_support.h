#pragma once

// Files for the tests of the data layer, made at test time: images of known pixels, encoded by the libraries
// themselves.

#include <array>
#include <atomic>
#include <cstdint>
#include <filesystem>
#include <set>
#include <string>
#include <vector>

#include "iabn/data/dataset.h"
#include "iabn/data/image.h"
#include "iabn/data/options.h"
#include "iabn/data/transform.h"

namespace iabn::data::test {

using Bytes = std::vector<uint8_t>;

/// A fresh folder, removed with everything in it.
class TempFolder {
 public:
  TempFolder();
  ~TempFolder();
  TempFolder(const TempFolder&) = delete;
  TempFolder& operator=(const TempFolder&) = delete;

  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

/// Creates the folders on the way.
void write_file(const std::filesystem::path& path, const Bytes& bytes);

/// Smooth, no two channels alike: JPEG keeps it within a few units. Pixel (y, x) differs from its neighbours.
Image gradient(int64_t height, int64_t width, int64_t channels);

/// Random bytes: every pixel matters.
Image noise(int64_t height, int64_t width, int64_t channels, uint64_t seed);

/// Every pixel this value.
Image constant(int64_t height, int64_t width, int64_t channels, uint8_t value);

struct JpegOptions {
  bool progressive = false;
  int quality = 95;
  int exif_orientation = 0;  // 0 = no EXIF segment
  int h_samples = 2;         // luma samples per chroma sample, of RGB images
  int v_samples = 2;
  unsigned restart_rows = 0;  // rows of blocks between restart markers, 0 = none
};

/// channels 1 grey, 3 RGB, 4 CMYK as Adobe writes it (inverted: 255 is no ink).
Bytes encode_jpeg(const Image& image, const JpegOptions& options = {});

/// 8-bit grey or RGB.
Bytes encode_png(const Image& image);

/// Any colour type (numbers of the PNG standard) from rows as the file holds them; `palette` for type 3.
Bytes encode_png_raw(uint32_t height, uint32_t width, int color_type, int bit_depth, const Bytes& rows,
                     const std::vector<std::array<uint8_t, 3>>& palette = {}, bool interlaced = false);

/// An idx file of bytes: header and data; `dims` big-endian.
Bytes encode_idx(const std::vector<uint32_t>& dims, const Bytes& data);

Bytes gzip(const Bytes& bytes);

/// Two classes "ant" and "bee" with `per_class` RGB images of 40 x 48 each in train/ and val/. Image i of a class has
/// the constant value 10 * i + 100 * label: an image can be told by its pixels.
void write_image_folder(const std::filesystem::path& root, int per_class);

/// `count` training and `count` validation images of 6 x 5, image i of constant value i, label i % 10.
void write_idx_folder(const std::filesystem::path& root, uint32_t count, bool zipped);

/// Identity normalisation: outputs are bytes / 255. Otherwise the defaults.
InputOptions plain_input(int64_t channels);

/// plain_input(1) for images of 6 x 6: no scaling, crops of 6, pad_crop by 1.
InputOptions small_input();

/// The transform of a whole image; draws from Random(seed, 0, 0).
std::vector<float> run(const Transform& transform, const Image& image, uint64_t seed, bool channels_last = true);

/// The same, times 255 and rounded: with plain_input() the image's bytes.
std::vector<int> run_bytes(const Transform& transform, const Image& image, uint64_t seed);

/// Images of 6 x 7 x 1 made in memory: the first pixel is the index, label index % 7. May fail or take its time.
class Numbers final : public Dataset {
 public:
  explicit Numbers(int64_t size) : size_(size), classes_(7, "class") {}

  int64_t size() const override { return size_; }
  const std::vector<std::string>& classes() const override { return classes_; }
  int64_t channels() const override { return 1; }
  Image image(int64_t index) const override;
  int64_t label(int64_t index) const override { return index % 7; }
  std::string name(int64_t index) const override { return "number[" + std::to_string(index) + "]"; }

  std::set<int64_t> bad;                  // throws DecodeError
  int64_t broken = -1;                    // throws std::runtime_error
  bool slow = false;                      // 2 ms per image
  mutable std::atomic<int64_t> read = 0;  // calls of image()

  /// Returns when image() has been called so often, or after 10 s.
  void wait_until_read(int64_t count) const;

 private:
  int64_t size_;
  std::vector<std::string> classes_;
};

}  // namespace iabn::data::test
