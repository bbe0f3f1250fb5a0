#pragma once

// The training loop.

#include <cstdint>
#include <filesystem>
#include <optional>
#include <stdexcept>
#include <string>

#include "iabn/train/config.h"

namespace iabn::train {

struct TrainOptions {
  std::filesystem::path data;     // folder, see data/dataset.h
  std::filesystem::path log_dir;  // checkpoint.pt, best.pt, log.csv; made where missing
  /// Snapshot to continue; nullopt begins a new run, which log_dir must not hold already.
  std::optional<std::filesystem::path> resume;
  std::string device = "auto";    // see choose_device
  int64_t workers = 2;            // threads that prepare data
  bool skip_corrupt = false;      // pass over images that cannot be decoded, naming them after each epoch
  int64_t print_frequency = 100;  // steps between two lines where stdout is no terminal
};

struct TrainResult {
  int interrupted_by = 0;  // signal number, 0 where the run is complete
  double top1 = 0;         // percent, of the last evaluation
  double best_top1 = 0;
};

/// The loss or a weight is not finite any more.
class DivergedError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Trains for config.optimizer.schedule.epochs epochs, evaluating after each; writes checkpoint.pt after every epoch
/// and on SIGINT or SIGTERM (after the step at hand), best.pt after every evaluation that is the best so far, and a row
/// of log.csv per epoch. Data that cannot be read costs no finished step: checkpoint.pt is written before
/// data::DataError leaves. Snapshots never hold weights that are not finite. Progress goes to stdout. Throws
/// ConfigError, SnapshotError, FileError, data::DataError, DivergedError, std::invalid_argument (device).
TrainResult train(const Config& config, const TrainOptions& options);

}  // namespace iabn::train
