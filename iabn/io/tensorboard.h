#pragma once

// Scalars, histograms and images for TensorBoard: one event file per writer.

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>

#include "iabn/io/event_file.h"

namespace iabn::io {

/// Names the file, what failed and the system's reason.
class EventFileError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Seconds since 1970.
inline double wall_time_now() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

/// Every add_*() hands its whole record to the system before it returns, so a killed process loses none; a machine that
/// loses power loses what came after the last flush(). Records are only ever appended: where the system takes a part of
/// one (a full disk), the file is cut back to the record before and the error thrown; later calls may succeed again.
/// One thread at a time may use a writer. Every add_*() throws EventFileError where the file cannot be written.
class EventWriter {
 public:
  /// Creates the folder where it is missing, and in it a new file events.out.tfevents.TIME.HOST.PID.N, where N counts
  /// the writers that chose the same name before. Throws EventFileError.
  explicit EventWriter(const std::filesystem::path& folder);

  /// Closes the file; what was added is in the system's hands already.
  ~EventWriter();
  EventWriter(const EventWriter&) = delete;
  EventWriter& operator=(const EventWriter&) = delete;

  /// For a resumed run, before anything else: readers drop what earlier files of the folder hold of steps from `step`
  /// on, which this run writes again.
  void start_at(int64_t step, double wall_time = wall_time_now());

  /// The file holds it as float32.
  void add_scalar(std::string_view tag, int64_t step, double value, double wall_time = wall_time_now());

  /// The distribution of `values`, see histogram_of().
  void add_histogram(std::string_view tag, int64_t step, std::span<const float> values,
                     double wall_time = wall_time_now());

  /// Counts that were summed elsewhere. Throws std::invalid_argument, see check_histogram().
  void add_histogram(std::string_view tag, int64_t step, const Histogram& histogram,
                     double wall_time = wall_time_now());

  /// The bytes of a PNG file. Throws std::invalid_argument where they do not begin like one.
  void add_image(std::string_view tag, int64_t step, std::span<const uint8_t> png, double wall_time = wall_time_now());

  /// Returns when everything is on the disk. Throws EventFileError.
  void flush();

  const std::filesystem::path& path() const { return path_; }

 private:
  void append(std::string_view event);
  void cut_back();

  std::filesystem::path path_;
  int file_ = -1;
  int64_t bytes_ = 0;  // of whole records
  bool torn_ = false;  // a part of a record follows them: readers would stop at it for good
};

}  // namespace iabn::io
