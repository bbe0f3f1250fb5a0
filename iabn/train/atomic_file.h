#pragma once

// A file that is replaced as a whole or not at all.

#include <filesystem>
#include <stdexcept>
#include <string>
#include <string_view>

namespace iabn::train {

/// Names the file, what failed and the system's reason.
class FileError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Writes `bytes` to a temporary file beside `path`, syncs it, renames it over `path` and syncs the folder. A crash, a
/// full disk or a lost power supply leaves either the old file or the new one. Throws FileError; the old file is then
/// as it was, and the temporary file is gone.
void replace_file(const std::filesystem::path& path, std::string_view bytes);

}  // namespace iabn::train
