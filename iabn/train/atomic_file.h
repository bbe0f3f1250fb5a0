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

/// The same for a reason that is this file's alone, others in its folder may be written: its name is too long, is that
/// of a folder, device or loop of links, or the file must not be replaced.
class FileNameError : public FileError {
 public:
  using FileError::FileError;
};

/// Writes `bytes` to a temporary file beside `path`, syncs it, renames it over `path` and syncs the folder. A crash, a
/// full disk or a lost power supply leaves either the old file or the new one. A symbolic link is followed. Throws
/// FileNameError where `path` is something else than a file, and FileError where writing fails: the old file is then as
/// it was, and the temporary file is gone (only where the folder cannot be synced is the new file in place, as the text
/// says). Temporary files are called .iabn-*.tmp, each once in all processes of all machines; one that a killed process
/// left behind is never read and can be deleted.
void replace_file(const std::filesystem::path& path, std::string_view bytes);

/// Throws FileError where replace_file would for want of a folder or of rights: to be called before long work.
void check_replaceable(const std::filesystem::path& path);

/// The parent path, "." where there is none.
std::filesystem::path folder_of(const std::filesystem::path& file);

}  // namespace iabn::train
