#pragma once

// Whole files into memory.

#include <cstdint>
#include <filesystem>
#include <vector>

namespace iabn::data {

/// The bytes of a regular file. Throws DataError with the path, also above 2^31 bytes: no image file is that large.
std::vector<uint8_t> read_file(const std::filesystem::path& path);

}  // namespace iabn::data
