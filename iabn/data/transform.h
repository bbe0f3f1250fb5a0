#pragma once

// From a decoded image to the network's input.

#include <array>
#include <cstdint>

#include "iabn/data/color.h"
#include "iabn/data/decode.h"
#include "iabn/data/geometry.h"
#include "iabn/data/image.h"
#include "iabn/data/options.h"
#include "iabn/data/output.h"
#include "iabn/data/random.h"

namespace iabn::data {

/// What will happen to one image: chosen from its size and from random numbers before any pixel is decoded.
struct Plan {
  Wanted wanted;          ///< the part that is needed, resized to wanted.height x wanted.width where that differs
  Box second;             ///< where height > 0: a part of the result, resized once more, to the output's size
  Box window;             ///< of the result so far: the output, size x size; outside of it is black
  bool mirrored = false;  ///< left and right exchanged
  Random random;          ///< of the colours
};

/// The transforms of one split; may be used by any number of threads at once.
/// Training: scale the shorter side to scale_train, augment to crop_train x crop_train, color_jitter_train,
/// lighting_train, normalise. Validation: scale the shorter side to scale_val, centre crop of crop_val, normalise.
/// Pixels outside the image are black (0 before normalisation). Normalised value: (pixel / 255 - mean[c]) / std[c];
/// with changed colours all steps are one affine map in single precision (within 2e-6 of the largest value).
class Transform {
 public:
  Transform(const InputOptions& options, Split split);

  /// For an image of height x width, at least one pixel. Throws DecodeError where it is too narrow to be scaled.
  Plan plan(int64_t height, int64_t width, const Random& random) const;

  /// Writes float32 [S, S, C] (channels_last) or [C, S, S] to `out`, S = size(), crops() of them one behind the other.
  /// `part` is what plan.wanted asked for and must have channels() channels.
  void write(const Part& part, const Plan& plan, bool channels_last, float* out) const;

  /// Both for a whole image.
  void operator()(const Image& image, const Random& random, bool channels_last, float* out) const;

  int64_t size() const { return size_; }
  int64_t channels() const { return options_.channels; }
  /// Outputs per image: 10 with ten_crops_val (top left, top right, bottom left, bottom right, centre; the same
  /// mirrored), else 1.
  int64_t crops() const { return split_ == Split::val && options_.ten_crops_val ? 10 : 1; }

 private:
  void write_ten(Output output) const;
  ColorChange color_change(const std::array<double, 3>& mean, Random random) const;

  InputOptions options_;
  Split split_;
  int64_t size_;
  Normalisation normalisation_;
};

}  // namespace iabn::data
