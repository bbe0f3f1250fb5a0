#pragma once

// What the measurements share: time on a device, spread, bandwidth, and the committed form of a row.

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

namespace iabn::cli {

struct Spread {
  double p20 = 0, p50 = 0, p80 = 0;
};

/// Percentiles with linear interpolation; `samples` must not be empty.
Spread spread(std::vector<double> samples);

/// What is queued on a GPU in front of what is timed, so that the host is ahead of it.
struct HeadStart {
  int copies = 2;        // per action, of 0.2 ms each
  bool sufficed = true;  // the first action had not begun when the last one was issued
};

/// Milliseconds of each of `actions`, one after the other. On a GPU between two events on the stream: the time of the
/// device, and perhaps of the host's calls where head_start->sufficed is false afterwards.
std::vector<double> time_each(c10::Device device, const std::vector<std::function<void()>>& actions,
                              HeadStart* head_start = nullptr);

/// Bytes per second (read and written) of copying between buffers far larger than any cache; median of many copies.
double copy_bandwidth(c10::Device device);

/// Columns of a row of benchmarks/results/*.csv that are the same for all rows of a run.
struct Machine {
  std::string gpu;  // on the CPU: the model of the CPU and the number of threads
  std::string driver, torch, git_sha, date;
};

Machine describe_machine(c10::Device device);
/// Says on stdout that the figures are not to be trusted where other processes keep this machine's cores busy.
void warn_if_busy();
std::string cpu_model();

/// Collects rows and writes them at the end, replacing the file.
class CsvRows {
 public:
  CsvRows(Machine machine, std::string case_name) : machine_(std::move(machine)), case_(std::move(case_name)) {}

  /// Of the rows that follow, in place of the machine's.
  void set_device(std::string name) { machine_.gpu = std::move(name); }
  /// The columns variant, shape, dtype, layout, pass, metric, p20, p50, p80, unit.
  void add(const std::string& variant, const std::string& shape, const std::string& dtype, const std::string& layout,
           const std::string& pass, const std::string& metric, const Spread& value, const std::string& unit);
  void write(const std::string& path) const;

 private:
  Machine machine_;
  std::string case_;
  std::string text_;
};

}  // namespace iabn::cli
