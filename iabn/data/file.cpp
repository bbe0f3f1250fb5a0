#include "iabn/data/file.h"

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <cstring>
#include <string>
#include <utility>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "iabn/data/error.h"

namespace iabn::data {
namespace {

constexpr int64_t kMaxFileBytes = int64_t{1} << 31;

// O_NONBLOCK: opening a pipe would wait for its writer.
class Descriptor {
 public:
  explicit Descriptor(const std::filesystem::path& path)
      : number_(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)) {}
  ~Descriptor() {
    if (number_ >= 0) ::close(number_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;

  int number() const { return number_; }

 private:
  int number_;
};

std::string lower_case(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(), [](unsigned char c) { return std::tolower(c); });
  return text;
}

}  // namespace

FileBytes read_file(const std::filesystem::path& path) {
  const auto fail = [&](const std::string& text) { throw DataError("read_file", path.string(), text); };
  const Descriptor file(path);
  if (file.number() < 0) fail(std::string("cannot be opened: ") + std::strerror(errno));
  struct stat status {};
  if (::fstat(file.number(), &status) != 0) fail(std::string("cannot be read: ") + std::strerror(errno));
  if (!S_ISREG(status.st_mode)) fail("cannot be read: not a regular file");
  if (status.st_size > kMaxFileBytes) {
    fail("at most " + std::to_string(kMaxFileBytes) + " bytes, got " + std::to_string(status.st_size));
  }
  FileBytes result;
  result.size = static_cast<size_t>(status.st_size);
  result.bytes = std::make_unique_for_overwrite<uint8_t[]>(result.size);
  size_t got = 0;
  while (got < result.size) {
    const ssize_t count = ::read(file.number(), result.bytes.get() + got, result.size - got);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) {
      fail("expected " + std::to_string(result.size) + " bytes, got " + std::to_string(got) +
           "; the disk failed or the file is being written");
    }
    got += static_cast<size_t>(count);
  }
  return result;
}

void PassedOver::add(std::string name, size_t more) {
  if (more == 0) return;
  if (count == 0 || name < first) first = std::move(name);
  count += more;
}

std::vector<std::string> file_names(const std::filesystem::path& folder, std::span<const std::string_view> extensions,
                                    PassedOver* others) {
  std::vector<std::string> names;
  for (const std::filesystem::directory_entry& entry : std::filesystem::directory_iterator(folder)) {
    std::string name = entry.path().filename().string();
    const std::string extension = lower_case(entry.path().extension().string());
    const bool matches = std::find(extensions.begin(), extensions.end(), extension) != extensions.end();
    if (name.starts_with('.')) continue;
    if (matches && entry.is_regular_file()) {
      names.push_back(std::move(name));
    } else if (others != nullptr) {
      others->add(std::move(name));
    }
  }
  std::sort(names.begin(), names.end());
  return names;
}

std::string passed_over_note(const std::filesystem::path& folder, const PassedOver& others) {
  if (others.count == 0) return "";
  return folder.string() + ": passed over " + others.first +
         (others.count > 1 ? " and " + std::to_string(others.count - 1) + " more" : "") +
         ": only .jpg, .jpeg and .png files are read, and no folders deeper down";
}

}  // namespace iabn::data
