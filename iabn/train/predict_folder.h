#pragma once

// Every picture of a folder segmented.

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "iabn/segmentation/fusion.h"
#include "iabn/train/predict_files.h"
#include "iabn/train/weights.h"

namespace iabn::train {

struct PredictOptions {
  std::filesystem::path snapshot, input, output;
  std::optional<std::filesystem::path> config;  // see segmentation_config()
  WeightsOptions weights;                       // bn_mode is taken from the configuration
  OutputMode mode = OutputMode::kRaw;
  std::vector<double> scales = {0.7, 1, 1.2};  // these four: see segmentation::PredictorOptions
  bool flip = false;
  segmentation::Fusion fusion = segmentation::Fusion::kMean;
  std::optional<int64_t> longest_side;  // by default the configuration's
  std::optional<int64_t> window;        // by default the configuration's; where that is 0: kAutomaticWindow
  std::string precision;  // see precision_dtype(); "": fp16 on a GPU, else float32; half on a GPU: channels last
  std::string device = "auto";
  int64_t workers = 4;     // threads that read pictures ahead and write answers behind
  bool overwrite = false;  // pictures whose files are there already are done again
};

/// Of all processes of the job.
struct PredictReport {
  int64_t pictures = 0;  // in the folder: written + skipped + bad
  int64_t written = 0;
  int64_t skipped = 0;  // their files were there already
  int64_t bad = 0;      // left out: see predict_folder()
};

/// For every picture of the folder the files of `mode`, in the picture's own size; each is written as a whole or not at
/// all, so a run that was broken off can be repeated. Of several processes each does the pictures that owner() gives
/// it; the report is that of all. Bad pictures are named on stderr and left out: those that cannot be read or decoded,
/// that the network refuses (too small, too large for the memory), whose logits are no numbers, or whose files' names
/// are too long or those of folders. Before anything is thrown, the pictures that the network has seen are written.
/// Prints notes and progress to stdout. Throws ConfigError, WeightsError, io::CheckpointError, FileError (also for a
/// full disk), Interrupted, what list_pictures throws, and std::invalid_argument.
PredictReport predict_folder(const PredictOptions& options);

}  // namespace iabn::train
