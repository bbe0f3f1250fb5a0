#pragma once

// Whole files into memory.

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>

namespace iabn::data {

struct FileBytes {
  std::unique_ptr<uint8_t[]> bytes;
  size_t size = 0;

  std::span<const uint8_t> span() const { return {bytes.get(), size}; }
};

/// The bytes of a regular file. Throws DataError with the path, also above 2^31 bytes: no image file is that large.
FileBytes read_file(const std::filesystem::path& path);

}  // namespace iabn::data
