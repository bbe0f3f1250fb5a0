#pragma once

// Accuracy of a checkpoint on a data set.

#include <filesystem>
#include <optional>
#include <string>

#include "iabn/train/config.h"
#include "iabn/train/metrics.h"
#include "iabn/train/weights.h"

namespace iabn::train {

struct ValidateOptions {
  std::filesystem::path checkpoint;    // any file that io::load_checkpoint reads
  std::filesystem::path data;          // folder, see data/dataset.h; its val split
  std::optional<int64_t> scale, crop;  // in place of input.scale_val and input.crop_val
  bool ten_crops = false;              // logits averaged over the corners and the centre, mirrored too
  std::optional<int64_t> batch_size;   // images at a time; by default optimizer.batch_size, a tenth with ten_crops
  WeightsOptions weights;              // bn_mode is taken from the configuration
  std::string device = "auto";
  int64_t workers = 2;
  bool skip_corrupt = false;
};

/// In a job of several processes each evaluates its share; the result is that of all, and rank 0 prints.
///
/// Builds the configuration's network (its activation and norm mode may differ from those that the weights were trained
/// with: the result says how they count), loads the weights and evaluates every image of the val split once. Prints
/// progress and notes to stdout. Throws ConfigError, WeightsError, io::CheckpointError, data::DataError,
/// std::invalid_argument.
Metrics validate(Config config, const ValidateOptions& options);

}  // namespace iabn::train
