#pragma once

// A cursor over bytes that never reads beyond their end.

#include <bit>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

#include "iabn/io/error.h"
#include "iabn/io/value.h"

namespace iabn::io {

static_assert(std::endian::native == std::endian::little, "the formats are little-endian and are read as they are");

class ByteReader {
 public:
  explicit ByteReader(ByteSpan bytes, size_t position = 0) : bytes_(bytes), position_(position) {}

  size_t position() const { return position_; }
  size_t left() const { return bytes_.size() - position_; }

  /// The next `count` bytes. Throws CheckpointError where there are fewer.
  ByteSpan take(uint64_t count) {
    if (count > left()) {
      throw CheckpointError("truncated: needs " + std::to_string(count) + " bytes at byte " +
                            std::to_string(position_) + ", " + std::to_string(left()) + " are left");
    }
    const ByteSpan result = bytes_.subspan(position_, static_cast<size_t>(count));
    position_ += static_cast<size_t>(count);
    return result;
  }

  std::string_view text(uint64_t count) {
    const ByteSpan bytes = take(count);
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
  }

  /// A little-endian number.
  template <class T>
  T number() {
    T value;
    std::memcpy(&value, take(sizeof(T)).data(), sizeof(T));
    return value;
  }

  /// Up to the next line feed, which is passed over.
  std::string_view line() {
    const void* end = left() == 0 ? nullptr : std::memchr(bytes_.data() + position_, '\n', left());
    if (end == nullptr) throw CheckpointError("truncated: no end of line after byte " + std::to_string(position_));
    const size_t length = static_cast<size_t>(static_cast<const uint8_t*>(end) - (bytes_.data() + position_));
    const std::string_view result = text(length);
    ++position_;
    return result;
  }

 private:
  ByteSpan bytes_;
  size_t position_;
};

}  // namespace iabn::io
