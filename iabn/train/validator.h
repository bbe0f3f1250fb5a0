#pragma once

// What a checkpoint is worth on a data set.

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "iabn/train/config.h"
#include "iabn/train/evaluation.h"
#include "iabn/train/weights.h"

namespace iabn::train {

struct ValidateOptions {
  std::filesystem::path checkpoint;    // any file that io::load_checkpoint reads
  std::filesystem::path data;          // folder, see data/dataset.h and data/segmentation_folder.h
  std::string split = "val";           // of the folder; classification: val or train
  std::optional<int64_t> scale, crop;  // classification: in place of input.scale_val and input.crop_val
  bool ten_crops = false;              // classification: logits averaged over the corners and the centre, mirrored too
  std::optional<int64_t> batch_size;   // classification: images at a time; by default that of training, see below
  std::vector<double> scales = {1};    // segmentation: mean of the scores over them
  bool flip = false;                   // segmentation: and over the mirror images
  std::optional<std::filesystem::path> json;  // the result as a file, see to_json_text()
  bool any_classes = false;                   // the labels mean the same although the classes have other names
  WeightsOptions weights;                     // bn_mode is taken from the configuration
  std::string device = "auto";
  int64_t workers = 2;
  bool skip_corrupt = false;
};

/// In a job of several processes each evaluates its share; the result is that of all. Rank 0 prints it, and
/// each what it has skipped. Without batch_size a process takes its share of optimizer.batch_size at a time, with
/// ten_crops a tenth of it.
///
/// Builds the configuration's network (its activation and norm mode may differ from those that the weights were trained
/// with: a note says in what the configuration differs from that of a snapshot), loads the weights and evaluates every
/// image of the split once. Prints notes and the result to stdout, of segmentation a table of the classes, too. Throws
/// ConfigError, WeightsError (also for a snapshot of other classes than the data's), io::CheckpointError,
/// data::DataError, FileError (json), std::invalid_argument.
Evaluation validate(const Config& config, const ValidateOptions& options);

}  // namespace iabn::train
