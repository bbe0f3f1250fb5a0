#include "iabn/io/event_file.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>
#include <stdexcept>

namespace iabn::io {
namespace {

// The polynomial 0x1EDC6F41, bits reversed.
constexpr uint32_t kPolynomial = 0x82F63B78u;

constexpr std::array<uint32_t, 256> kCrcOfByte = [] {
  std::array<uint32_t, 256> table{};
  for (uint32_t byte = 0; byte < 256; ++byte) {
    uint32_t crc = byte;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) != 0 ? kPolynomial : 0);
    table[byte] = crc;
  }
  return table;
}();

uint32_t masked_crc32c(std::string_view bytes) { return std::rotr(crc32c(bytes), 15) + 0xa282ead8u; }

template <class Unsigned>
void put_little_endian(std::string& out, Unsigned value) {
  for (size_t i = 0; i < sizeof value; ++i) out += static_cast<char>(value >> (8 * i));
}

// --- protobuf: every field is a key (number and wire type), then its value -----------------------------------------

enum WireType : uint32_t { kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5 };

void put_varint(std::string& out, uint64_t value) {
  for (; value >= 0x80; value >>= 7) out += static_cast<char>(value | 0x80);
  out += static_cast<char>(value);
}

void put_key(std::string& out, uint32_t field, WireType type) { put_varint(out, field << 3 | type); }

void put_int(std::string& out, uint32_t field, int64_t value) {
  put_key(out, field, kVarint);
  put_varint(out, static_cast<uint64_t>(value));
}

void put_double(std::string& out, uint32_t field, double value) {
  put_key(out, field, kFixed64);
  put_little_endian(out, std::bit_cast<uint64_t>(value));
}

void put_float(std::string& out, uint32_t field, float value) {
  put_key(out, field, kFixed32);
  put_little_endian(out, std::bit_cast<uint32_t>(value));
}

void put_bytes(std::string& out, uint32_t field, std::string_view bytes) {
  put_key(out, field, kBytes);
  put_varint(out, bytes.size());
  out += bytes;
}

void put_doubles(std::string& out, uint32_t field, const std::vector<double>& values) {
  put_key(out, field, kBytes);
  put_varint(out, values.size() * sizeof(double));
  for (const double value : values) put_little_endian(out, std::bit_cast<uint64_t>(value));
}

// --- messages, with the field numbers of TensorBoard's event.proto, summary.proto and histogram.proto --------------

std::string event(double wall_time, int64_t step) {
  std::string out;
  put_double(out, 1, wall_time);
  put_int(out, 2, step);
  return out;
}

// An event with a summary of one value: `content` is the encoded field of its kind.
std::string summary_event(double wall_time, int64_t step, std::string_view tag, std::string_view content) {
  std::string value;
  put_bytes(value, 1, tag);
  value += content;
  std::string summary;
  put_bytes(summary, 1, value);
  std::string out = event(wall_time, step);
  put_bytes(out, 5, summary);
  return out;
}

std::vector<double> usual_limits() {
  std::vector<double> positive;
  for (double limit = 1e-12; limit < 1e20; limit *= 1.1) positive.push_back(limit);
  positive.push_back(std::numeric_limits<double>::max());
  std::vector<double> limits;
  for (auto it = positive.rbegin(); it != positive.rend(); ++it) limits.push_back(-*it);
  limits.push_back(0);
  limits.insert(limits.end(), positive.begin(), positive.end());
  return limits;
}

}  // namespace

uint32_t crc32c(std::string_view bytes) {
  uint32_t crc = ~0u;
  for (const char c : bytes) crc = (crc >> 8) ^ kCrcOfByte[(crc ^ static_cast<uint8_t>(c)) & 0xff];
  return ~crc;
}

std::string record(std::string_view data) {
  std::string out;
  out.reserve(data.size() + 16);
  put_little_endian(out, uint64_t{data.size()});
  put_little_endian(out, masked_crc32c(out));
  out += data;
  put_little_endian(out, masked_crc32c(data));
  return out;
}

Histogram histogram_of(std::span<const float> values) {
  static const std::vector<double> limits = usual_limits();
  std::vector<double> counts(limits.size());
  Histogram result;
  for (const double value : values) {
    if (!std::isfinite(value)) continue;
    result.min = result.count == 0 ? value : std::min(result.min, value);
    result.max = result.count == 0 ? value : std::max(result.max, value);
    ++result.count;
    result.sum += value;
    result.sum_squares += value * value;
    ++counts[static_cast<size_t>(std::upper_bound(limits.begin(), limits.end(), value) - limits.begin())];
  }
  for (size_t i = 0; i < limits.size(); ++i) {
    const bool joins = i > 0 && counts[i] == 0 && result.counts.back() == 0;
    if (joins) {
      result.limits.back() = limits[i];
    } else {
      result.limits.push_back(limits[i]);
      result.counts.push_back(counts[i]);
    }
  }
  return result;
}

void check_histogram(const Histogram& histogram, const std::string& where) {
  const size_t limits = histogram.limits.size();
  if (limits == 0 || limits != histogram.counts.size()) {
    throw std::invalid_argument(where + ": expected as many counts as limits, at least one, got " +
                                std::to_string(histogram.counts.size()) + " and " + std::to_string(limits));
  }
  const auto bad = std::adjacent_find(histogram.limits.begin(), histogram.limits.end(), std::greater_equal<>());
  if (bad != histogram.limits.end()) {
    throw std::invalid_argument(where + ": expected increasing limits, got " + std::to_string(bad[0]) + " before " +
                                std::to_string(bad[1]));
  }
}

PngHeader read_png_header(std::span<const uint8_t> bytes, const std::string& where) {
  constexpr std::string_view kStart("\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR", 16);
  constexpr size_t kHeaderBytes = 26;  // the start, width, height, bit depth, colour type
  if (bytes.size() < kHeaderBytes || !std::equal(kStart.begin(), kStart.end(), bytes.begin(),
                                                 [](char a, uint8_t b) { return static_cast<uint8_t>(a) == b; })) {
    throw std::invalid_argument(where + ": expected the bytes of a PNG file, got " + std::to_string(bytes.size()) +
                                " bytes of something else");
  }
  const auto number = [&](size_t at) {
    int64_t value = 0;
    for (size_t i = at; i < at + 4; ++i) value = value << 8 | bytes[i];
    return value;
  };
  constexpr std::array<int64_t, 7> kColorSpace = {1, 0, 3, 3, 2, 0, 4};  // by PNG's colour type
  const uint8_t type = bytes[kHeaderBytes - 1];
  const int64_t color_space = type < kColorSpace.size() ? kColorSpace[type] : 0;
  if (color_space == 0) {
    throw std::invalid_argument(where + ": expected a PNG colour type of 0, 2, 3, 4 or 6, got " + std::to_string(type));
  }
  return {number(20), number(16), color_space};
}

std::string version_event(double wall_time) {
  std::string out;
  put_double(out, 1, wall_time);
  put_bytes(out, 3, "brain.Event:2");
  return out;
}

std::string session_start_event(double wall_time, int64_t step) {
  std::string session;
  put_int(session, 1, 1);  // status: START
  std::string out = event(wall_time, step);
  put_bytes(out, 7, session);
  return out;
}

std::string scalar_event(double wall_time, int64_t step, std::string_view tag, float value) {
  std::string content;
  put_float(content, 2, value);
  return summary_event(wall_time, step, tag, content);
}

std::string histogram_event(double wall_time, int64_t step, std::string_view tag, const Histogram& histogram) {
  std::string message;
  put_double(message, 1, histogram.min);
  put_double(message, 2, histogram.max);
  put_double(message, 3, histogram.count);
  put_double(message, 4, histogram.sum);
  put_double(message, 5, histogram.sum_squares);
  put_doubles(message, 6, histogram.limits);
  put_doubles(message, 7, histogram.counts);
  std::string content;
  put_bytes(content, 5, message);
  return summary_event(wall_time, step, tag, content);
}

std::string image_event(double wall_time, int64_t step, std::string_view tag, const PngHeader& header,
                        std::span<const uint8_t> png) {
  std::string message;
  put_int(message, 1, header.height);
  put_int(message, 2, header.width);
  put_int(message, 3, header.color_space);
  put_bytes(message, 4, {reinterpret_cast<const char*>(png.data()), png.size()});
  std::string content;
  put_bytes(content, 4, message);
  return summary_event(wall_time, step, tag, content);
}

}  // namespace iabn::io
