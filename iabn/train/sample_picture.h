#pragma once

// What a network sees in a picture, for people.

#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

#include "iabn/train/config.h"
#include "iabn/train/pair_queue.h"

namespace iabn::train {

/// A PNG file: picture, mask and `labels` (integers [H, W] on any device) side by side, in the classes' colours, black
/// where the mask has ignore_label. Of large pictures every second, third, ... pixel, so that no side is above 512.
std::vector<uint8_t> sample_picture(const LabelledPicture& pair, const at::Tensor& labels,
                                    const SegmentationConfig& segmentation);

}  // namespace iabn::train
