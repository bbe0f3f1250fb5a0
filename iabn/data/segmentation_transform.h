#pragma once

// From a picture and its mask to a training sample of segmentation.

#include <cstdint>

#include "iabn/data/decode.h"
#include "iabn/data/image.h"
#include "iabn/data/options.h"
#include "iabn/data/random.h"
#include "iabn/data/transform.h"

namespace iabn::data {

/// The range of the random scale.
struct ScaleRange {
  double lowest = 0.5;
  double highest = 2;
};

/// 0.01 <= lowest <= highest <= 16.
bool is_scale_range(const ScaleRange& scale);

/// The training transform: random scale, random crop of S x S (S = InputOptions::crop_train) padded where the scaled
/// picture is smaller, random flip, colour jitter and lighting as InputOptions says, normalisation.
///
/// Scale and crop are one step: for the scale s, a square of round(S / s) pixels of the picture is resized to S x S, so
/// nothing outside of it is decoded (JPEG) or resized. log s is uniform over the range: halving is as frequent as
/// doubling, where a uniform s would enlarge two pictures of three in [0.5, 2].
/// The square lies anywhere in the picture; along a side that is shorter than it, the picture lies anywhere in the
/// square, and the rest is black (as in Transform, 0 before normalisation) and ignore_label.
/// Pixels are areas: pixel i covers [i, i + 1), the picture's part of the square is resized edge to edge (its edges in
/// the output rounded to whole pixels), the picture bilinear with antialiasing as in resize.h, and the mask's output
/// pixel i of n takes the pixel that holds its centre, floor((i + 1/2) * length / n).
///
/// May be used by any number of threads at once.
class SegmentationTransform {
 public:
  /// Throws DataError unless channels is 3 and is_scale_range(scale), and for what InputOptions refuses.
  SegmentationTransform(const InputOptions& input, const ScaleRange& scale, int64_t ignore_label);

  /// For a picture of height x width, at least one pixel. Plan::second is unused.
  Plan plan(int64_t height, int64_t width, const Random& random) const;

  /// Writes float32 [S, S, 3] (channels_last) or [3, S, S]. `part` is what plan.wanted asked for.
  void write_image(const Part& part, const Plan& plan, bool channels_last, float* out) const;

  /// Writes int64 [S, S]. mask: [H, W, 1] of the whole picture.
  void write_labels(const Image& mask, const Plan& plan, int64_t* out) const;

  int64_t size() const { return image_.size(); }

 private:
  Transform image_;
  double lowest_, highest_;  // logarithms
  int64_t ignore_label_;
};

}  // namespace iabn::data
