#include "iabn/train/atomic_file.h"

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <utility>

#include <fcntl.h>
#include <unistd.h>

namespace iabn::train {
namespace {

class Descriptor {
 public:
  Descriptor(const std::filesystem::path& path, int flags) : fd_(::open(path.c_str(), flags | O_CLOEXEC, 0644)) {}
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
  std::filesystem::path path;
  bool keep = false;
  ~Temporary() {
    if (!keep) ::unlink(path.c_str());
  }
};

}  // namespace

void replace_file(const std::filesystem::path& path, std::string_view bytes) {
  const auto check = [&path](bool ok, const char* action) {
    if (ok) return;
    const std::string reason = std::strerror(errno);
    throw FileError("cannot write " + path.string() + ": " + action + ": " + reason +
                    (std::filesystem::exists(path) ? "; the file that was there is unchanged" : ""));
  };
  Temporary temporary{path.string() + ".tmp." + std::to_string(::getpid())};
  {
    Descriptor file(temporary.path, O_WRONLY | O_CREAT | O_TRUNC);
    check(file.is_open(), "creating a temporary file beside it");
    check(file.write(bytes), "writing");
    check(file.sync(), "syncing to disk");
    check(file.close(), "closing");
  }
  check(std::rename(temporary.path.c_str(), path.c_str()) == 0, "renaming the temporary file");
  temporary.keep = true;
  const std::filesystem::path folder = path.has_parent_path() ? path.parent_path() : ".";
  const Descriptor directory(folder, O_RDONLY | O_DIRECTORY);
  // The name is safe on disk only when the folder is; some network file systems cannot sync one and say EINVAL.
  check(directory.is_open() && (directory.sync() || errno == EINVAL), "syncing the folder");
}

}  // namespace iabn::train
