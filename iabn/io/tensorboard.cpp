#include "iabn/io/tensorboard.h"

#include <cerrno>
#include <cinttypes>
#include <cstdio>
#include <cstring>
#include <system_error>

#include <fcntl.h>
#include <unistd.h>

namespace iabn::io {
namespace {

namespace fs = std::filesystem;

[[noreturn]] void fail(const fs::path& path, const char* what, int error) {
  throw EventFileError(path.string() + ": " + what + ": " + std::strerror(error));
}

std::string host_name() {
  char name[256] = "";
  if (::gethostname(name, sizeof name - 1) != 0 || name[0] == '\0') return "localhost";
  return name;
}

// TensorBoard reads a folder's files in the order of their names: ten digits of time keep that the order of writing.
std::string file_name(int number) {
  char start[64];
  std::snprintf(start, sizeof start, "events.out.tfevents.%010" PRId64 ".", static_cast<int64_t>(wall_time_now()));
  return start + host_name() + "." + std::to_string(::getpid()) + "." + std::to_string(number);
}

}  // namespace

EventWriter::EventWriter(const fs::path& folder) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) throw EventFileError(folder.string() + ": the folder cannot be created: " + error.message());
  for (int number = 0; file_ < 0; ++number) {
    path_ = folder / file_name(number);
    file_ = ::open(path_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC, 0644);
    if (file_ < 0 && errno != EEXIST) fail(path_, "the file cannot be created", errno);
  }
  try {
    append(version_event(wall_time_now()));
  } catch (...) {
    ::close(file_);
    throw;
  }
}

EventWriter::~EventWriter() { ::close(file_); }

void EventWriter::cut_back() {
  if (::ftruncate(file_, bytes_) != 0) fail(path_, "a half-written record cannot be removed", errno);
  torn_ = false;
}

void EventWriter::append(std::string_view event) {
  if (torn_) cut_back();
  const std::string bytes = record(event);
  size_t written = 0;
  while (written < bytes.size()) {
    const ssize_t count = ::write(file_, bytes.data() + written, bytes.size() - written);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) {
      const int error = count < 0 ? errno : ENOSPC;
      torn_ = written > 0;
      if (torn_) cut_back();
      fail(path_, "cannot be written", error);
    }
    written += static_cast<size_t>(count);
  }
  bytes_ += static_cast<int64_t>(bytes.size());
}

void EventWriter::start_at(int64_t step, double wall_time) { append(session_start_event(wall_time, step)); }

void EventWriter::add_scalar(std::string_view tag, int64_t step, double value, double wall_time) {
  append(scalar_event(wall_time, step, tag, static_cast<float>(value)));
}

void EventWriter::add_histogram(std::string_view tag, int64_t step, std::span<const float> values, double wall_time) {
  append(histogram_event(wall_time, step, tag, histogram_of(values)));
}

void EventWriter::add_histogram(std::string_view tag, int64_t step, const Histogram& histogram, double wall_time) {
  check_histogram(histogram, "add_histogram: " + std::string(tag));
  append(histogram_event(wall_time, step, tag, histogram));
}

void EventWriter::add_image(std::string_view tag, int64_t step, std::span<const uint8_t> png, double wall_time) {
  append(image_event(wall_time, step, tag, read_png_header(png, "add_image: " + std::string(tag)), png));
}

void EventWriter::flush() {
  if (::fsync(file_) != 0) fail(path_, "cannot be brought to the disk", errno);
}

}  // namespace iabn::io
