#include "iabn/train/atomic_file.h"

#include <atomic>
#include <cerrno>
#include <cinttypes>
#include <cstdio>
#include <cstring>
#include <random>
#include <utility>

#include <fcntl.h>
#include <unistd.h>

namespace iabn::train {
namespace {

namespace fs = std::filesystem;

class Descriptor {
 public:
  Descriptor(const fs::path& path, int flags) : fd_(::open(path.c_str(), flags | O_CLOEXEC, 0644)) {}
  ~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;

  bool is_open() const { return fd_ >= 0; }
  bool sync() const { return ::fsync(fd_) == 0; }
  bool close() { return ::close(std::exchange(fd_, -1)) == 0; }

  bool write(std::string_view bytes) const {
    while (!bytes.empty()) {
      const ssize_t written = ::write(fd_, bytes.data(), bytes.size());
      if (written < 0 && errno == EINTR) continue;
      if (written <= 0) return false;
      bytes.remove_prefix(static_cast<size_t>(written));
    }
    return true;
  }

 private:
  int fd_;
};

// Removes the temporary file unless it has become the real one.
struct Temporary {
  fs::path path;
  bool keep = false;
  ~Temporary() {
    if (!keep) ::unlink(path.c_str());
  }
};

// Short whatever the target is called, and met by no other process, on this machine or another that shares the folder.
fs::path temporary_path(const fs::path& target) {
  static const uint32_t word = std::random_device()();
  static std::atomic<uint64_t> number = 0;
  char name[80];
  std::snprintf(name, sizeof name, ".iabn-%08" PRIx32 "-%ld-%" PRIu64 ".tmp", word, static_cast<long>(::getpid()),
                number++);
  return folder_of(target) / name;
}

// Whether a rename failed for a reason that lies in the file.
bool is_of_one_file(int error) { return error == ENAMETOOLONG || error == EISDIR || error == EPERM || error == EBUSY; }

// What a link points to; FileError where it cannot be replaced.
fs::path replaceable_file(const fs::path& path) {
  std::error_code error;
  const fs::path target = fs::weakly_canonical(path, error);
  if (error == std::errc::filename_too_long || error == std::errc::too_many_symbolic_link_levels) {
    throw FileNameError("cannot write " + path.string() + ": " + error.message());
  }
  if (error) throw FileError("cannot write " + path.string() + ": " + error.message());
  const fs::file_status status = fs::symlink_status(target, error);
  if (fs::is_symlink(status)) {
    throw FileNameError("cannot write " + path.string() + ": is a symbolic link to nowhere; remove it");
  }
  if (fs::exists(status) && !fs::is_regular_file(status)) {
    throw FileNameError("cannot write " + path.string() + ": is not a regular file" +
                        (fs::is_directory(status) ? " but a folder" : "") + "; choose another name");
  }
  return target;
}

}  // namespace

fs::path folder_of(const fs::path& file) { return file.has_parent_path() ? file.parent_path() : "."; }

void check_replaceable(const fs::path& path) {
  const Temporary temporary{temporary_path(replaceable_file(path))};
  if (!Descriptor(temporary.path, O_WRONLY | O_CREAT | O_EXCL).is_open()) {
    throw FileError("cannot write " + path.string() + ": creating a temporary file beside it: " + std::strerror(errno));
  }
}

void replace_file(const fs::path& path, std::string_view bytes) {
  const fs::path target = replaceable_file(path);
  const auto check = [&](bool ok, const char* action, bool renames = false) {
    if (ok) return;
    const int number = errno;
    std::error_code ignored;
    const std::string text = "cannot write " + path.string() + ": " + action + ": " + std::strerror(number) +
                             (fs::exists(target, ignored) ? "; the file that was there is unchanged" : "");
    if (renames && is_of_one_file(number)) throw FileNameError(text);
    throw FileError(text);
  };
  Temporary temporary{temporary_path(target)};
  {
    Descriptor file(temporary.path, O_WRONLY | O_CREAT | O_EXCL);
    check(file.is_open(), "creating a temporary file beside it");
    check(file.write(bytes), "writing");
    check(file.sync(), "syncing to disk");
    check(file.close(), "closing");
  }
  check(std::rename(temporary.path.c_str(), target.c_str()) == 0, "renaming the temporary file", /*renames=*/true);
  temporary.keep = true;
  const Descriptor directory(folder_of(target), O_RDONLY | O_DIRECTORY);
  // The name is safe on disk only when the folder is; some network file systems cannot sync one and say EINVAL.
  if (directory.is_open() && (directory.sync() || errno == EINVAL)) return;
  const std::string reason = std::strerror(errno);
  throw FileError(path.string() + ": the new file is in place, but its folder could not be synced to disk: " + reason +
                  "; a power failure now may bring the old file back");
}

}  // namespace iabn::train
