#pragma once

// Whole files into memory, and which files of a folder are images.

#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace iabn::data {

struct FileBytes {
  std::unique_ptr<uint8_t[]> bytes;
  size_t size = 0;

  std::span<const uint8_t> span() const { return {bytes.get(), size}; }
};

/// The bytes of a regular file. Throws DataError with the path, also above 2^31 bytes: no image file is that large.
FileBytes read_file(const std::filesystem::path& path);

inline constexpr std::array<std::string_view, 3> kImageExtensions = {".jpg", ".jpeg", ".png"};

/// What lies beside the images of a folder: the first name in their order, and how many. A folder may hold millions.
struct PassedOver {
  std::string first;
  size_t count = 0;

  /// `more` others, of which `name` is the first.
  void add(std::string name, size_t more = 1);
};

/// Names of the files of a folder that end in one of the (lower-case) extensions, in any case of letters, without
/// hidden ones; sorted. `others` (may be null) gets what else is there, folders too. Throws
/// std::filesystem::filesystem_error where the folder cannot be read.
std::vector<std::string> file_names(const std::filesystem::path& folder,
                                    std::span<const std::string_view> extensions = kImageExtensions,
                                    PassedOver* others = nullptr);

/// A line for people on what a folder of images holds beside them, by paths within it; "" for nothing.
std::string passed_over_note(const std::filesystem::path& folder, const PassedOver& others);

}  // namespace iabn::data
