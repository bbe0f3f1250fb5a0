#include "iabn/data/file.h"

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>

#include "iabn/data/error.h"

namespace iabn::data {
namespace {

constexpr uintmax_t kMaxFileBytes = uintmax_t{1} << 31;

struct Close {
  void operator()(std::FILE* file) const { std::fclose(file); }
};

}  // namespace

std::vector<uint8_t> read_file(const std::filesystem::path& path) {
  std::error_code error;
  const uintmax_t size = std::filesystem::file_size(path, error);  // also refuses folders and devices
  if (error) throw DataError("read_file", path.string(), "cannot be read: " + error.message());
  if (size > kMaxFileBytes) {
    throw DataError("read_file", path.string(),
                    "at most " + std::to_string(kMaxFileBytes) + " bytes, got " + std::to_string(size));
  }
  const std::unique_ptr<std::FILE, Close> file(std::fopen(path.c_str(), "rb"));
  if (!file) throw DataError("read_file", path.string(), std::string("cannot be opened: ") + std::strerror(errno));
  std::vector<uint8_t> bytes(static_cast<size_t>(size));
  const size_t got = std::fread(bytes.data(), 1, bytes.size(), file.get());
  if (got != bytes.size()) {
    throw DataError("read_file", path.string(),
                    "expected " + std::to_string(bytes.size()) + " bytes, got " + std::to_string(got) +
                        "; the disk failed or the file is being written");
  }
  return bytes;
}

}  // namespace iabn::data
