#pragma once

// log.csv of a run: one row per epoch.

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "iabn/train/metrics.h"

namespace iabn::train {

struct LogRow {
  int64_t epoch = 0;         // counted from 1
  Metrics train, val;        // of the columns that the log began with
  double learning_rate = 0;  // of the epoch's last step
  double seconds = 0;        // training and evaluation
};

class CsvLog {
 public:
  /// columns: those between epoch and learning_rate: names of named_values(), train_..., then val_...
  /// Keeps the rows of an existing file up to `finished_epochs` (a resumed run writes the others again) and drops the
  /// rest; 0 begins a new file. Throws FileError.
  CsvLog(std::filesystem::path path, const std::vector<std::string>& columns, int64_t finished_epochs);
  void append(const LogRow& row);

 private:
  std::filesystem::path path_;
  std::string text_;
};

/// The column val_top1 (percent) of the last row. Throws FileError where there is no row or no such column.
double last_validation_accuracy(const std::filesystem::path& log);

}  // namespace iabn::train
