#pragma once

// Mean IoU of a network on a folder of pictures and masks.

#include <memory>
#include <vector>

#include "iabn/segmentation/confusion.h"
#include "iabn/train/config.h"
#include "iabn/train/distributed.h"
#include "iabn/train/evaluation.h"

namespace iabn::train {

/// "miou" and "pixel_accuracy".
std::vector<Percent> segmentation_percents(const segmentation::IouTable& table);

/// Pictures go through segmentation::Predictor one by one (the configuration's window and longest_side, the options'
/// scales and flip; without a window, tiles for huge pictures only), each against its mask at the picture's own size.
/// Pixels of ignore_label count nowhere, and where it is a class, that has no IoU. Process r of n takes the pictures r,
/// r + n, ... Throws data::DataError and std::invalid_argument (scales, window).
std::unique_ptr<Evaluator> make_segmentation_evaluator(const Config& config, const EvaluationOptions& options,
                                                       const World& world, c10::Device device);

}  // namespace iabn::train
