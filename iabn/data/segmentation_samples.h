#pragma once

// Pictures and masks for a Loader.

#include <memory>

#include "iabn/data/options.h"
#include "iabn/data/samples.h"
#include "iabn/data/segmentation_folder.h"
#include "iabn/data/segmentation_transform.h"

namespace iabn::data {

/// Training samples of a folder: one crop each, a label for every pixel (the folder's ignore_label where there is no
/// picture). Of `input` the transform of segmentation_transform.h uses crop_train, color_jitter_train, lighting_train,
/// mean and std. Throws DataError where the folder is null, and what SegmentationTransform throws.
std::shared_ptr<const Samples> segmentation_samples(std::shared_ptr<const SegmentationFolder> folder,
                                                    const InputOptions& input, const ScaleRange& scale);

}  // namespace iabn::data
