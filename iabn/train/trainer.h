#pragma once

// The training loop.

#include <cstdint>
#include <filesystem>
#include <optional>
#include <stdexcept>
#include <string>

#include "iabn/io/gamma.h"
#include "iabn/train/config.h"

namespace iabn::train {

/// Of a run's folder: the last state, and that of the best evaluation.
inline constexpr const char* kCheckpointName = "checkpoint.pth.tar";
inline constexpr const char* kBestName = "model_best.pth.tar";

struct TrainOptions {
  std::filesystem::path data;     // folder, see data/dataset.h and data/segmentation_folder.h
  std::filesystem::path log_dir;  // kCheckpointName, kBestName, log.csv, rank0.log, TensorBoard; made where missing
  /// Snapshot to continue; nullopt begins a new run, which log_dir must not hold already.
  std::optional<std::filesystem::path> resume;
  bool resume_auto = false;  // continue the run that log_dir holds, or begin it
  /// Of segmentation: weights with which the body of a new run begins, see load_body(); not with `resume`.
  std::optional<std::filesystem::path> body;
  std::optional<io::Gamma> body_gamma;  // see WeightsOptions::gamma
  bool any_config = false;              // resume although the snapshot's configuration differs, saying how
  bool evaluate_only = false;           // evaluate what `resume` holds, train nothing, write nothing but the log
  std::string device = "auto";          // see choose_device
  int64_t workers = 2;                  // threads that prepare data
  bool skip_corrupt = false;            // pass over images that cannot be decoded, naming them after each epoch
  int64_t print_frequency = 100;   // steps between two lines where stdout is no terminal, and two rows of TensorBoard
  double snapshot_minutes = 0;     // also save the state this often within an epoch; 0 = only after epochs
  bool weight_histograms = false;  // to TensorBoard after each epoch
  int64_t trace_steps = 0;         // to trace_rank<r>.json, see StepTrace; 0 = none
};

struct TrainResult {
  int interrupted_by = 0;  // signal number, 0 where the run is complete
  double score = 0;        // Metrics::score() of the last evaluation: top-1, or the mean IoU of segmentation
  double best_score = 0;
  std::string score_label;     // what the two are called: "top1", "mIoU"
  bool nothing_to_do = false;  // the run was complete already
  bool first_process = true;   // of the job: who speaks
};

/// The loss or a weight is not finite any more.
class DivergedError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// In a job of several processes (World) each has its share of every batch, gradients are averaged, evaluation counts
/// every image once, and rank 0 writes; a run may be resumed with another number of processes. Where a process fails
/// the others end, too.
///
/// Trains for config.optimizer.schedule.epochs epochs, evaluating after each (with the averaged weights where ema_decay
/// is set). Writes the state after every epoch (of segmentation and of several processes before its evaluation, too),
/// every snapshot_minutes, and on SIGINT or SIGTERM (after the step at hand; several processes agree on both at every
/// 16th step), the best state after every evaluation that is the best so far, and a row of log.csv per epoch. Data that
/// cannot be read cost no finished step: the state is written before data::DataError leaves (in a job of several
/// processes that of the last snapshot stays). Before a new run's first step no state is written. Snapshots never hold
/// weights that are not finite. Progress goes to stdout. Throws ConfigError, SnapshotError, FileError,
/// io::EventFileError, data::DataError, DivergedError, WeightsError and io::CheckpointError (body),
/// std::invalid_argument (device, body together with resume), std::runtime_error (see Evaluator::evaluate).
TrainResult train(const Config& config, const TrainOptions& options);

}  // namespace iabn::train
