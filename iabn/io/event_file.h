#pragma once

// The bytes of TensorBoard's event files. A file is a sequence of records (TFRecord); each holds one Event message in
// protobuf's encoding. Only the few fields that the writer needs are encoded, by hand; no protobuf library.

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace iabn::io {

/// CRC-32C (Castagnoli), as in iSCSI (RFC 3720).
uint32_t crc32c(std::string_view bytes);

/// length (8 bytes, little-endian), masked CRC of these 8 bytes (4), `data`, masked CRC of `data` (4). The mask keeps
/// a CRC over bytes that hold CRCs from being weak: rotated right by 15, plus 0xa282ead8.
std::string record(std::string_view data);

/// What a histogram holds: counts[i] values lie in [limits[i - 1], limits[i]), the first from `min` on.
struct Histogram {
  double min = 0, max = 0;  ///< of the values; 0 where there is none
  double count = 0, sum = 0, sum_squares = 0;
  std::vector<double> limits;  ///< upper bounds, increasing
  std::vector<double> counts;  ///< as many as limits
};

/// TensorBoard's usual buckets: bounds at 0 and at +-1e-12 * 1.1^k up to 1e20, the last at the largest double. Runs of
/// empty buckets are joined to one. Values that are not finite are left out.
Histogram histogram_of(std::span<const float> values);

/// Throws std::invalid_argument unless limits are increasing and as many as counts, at least one. `where` begins the
/// text.
void check_histogram(const Histogram& histogram, const std::string& where);

/// Height, width and colour space of a PNG file, from its header.
struct PngHeader {
  int64_t height = 0, width = 0;
  int64_t color_space = 0;  ///< 1 grey, 2 grey and alpha, 3 RGB (or a palette), 4 RGB and alpha
};

/// Throws std::invalid_argument where the bytes do not begin like a PNG file. `where` begins the text.
PngHeader read_png_header(std::span<const uint8_t> bytes, const std::string& where);

// Event messages. `wall_time` in seconds since 1970.

/// The first of every file: "brain.Event:2".
std::string version_event(double wall_time);

/// Readers forget what earlier files of the folder say of steps from `step` on.
std::string session_start_event(double wall_time, int64_t step);

std::string scalar_event(double wall_time, int64_t step, std::string_view tag, float value);
std::string histogram_event(double wall_time, int64_t step, std::string_view tag, const Histogram& histogram);
std::string image_event(double wall_time, int64_t step, std::string_view tag, const PngHeader& header,
                        std::span<const uint8_t> png);

}  // namespace iabn::io
