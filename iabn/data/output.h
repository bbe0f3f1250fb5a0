#pragma once

// The last step of the transforms: a window of bytes to normalised floats.

#include <array>
#include <cstdint>
#include <vector>

#include "iabn/data/color.h"
#include "iabn/data/geometry.h"
#include "iabn/data/pixel_rows.h"
#include "iabn/data/view.h"

namespace iabn::data {

/// A size x size window of an image in an endless black plane, and where its values go: float32 [S, S, C]
/// (channels_last) or [C, S, S].
struct Output {
  View image;
  Box window;
  bool mirrored = false;
  bool channels_last = false;
  float* out = nullptr;
};

/// (byte / 255 - mean[c]) / std[c], each step rounded to single precision.
class Normalisation {
 public:
  /// Per channel, 1 or 3.
  Normalisation(const std::vector<double>& mean, const std::vector<double>& std);

  /// The image has as many channels.
  void write(const Output& output) const;

 private:
  ByteScale scale_;
  std::array<float, 3> black_{};
  std::array<float, 256> of_grey_{};  // the first channel's value for each byte
};

/// Writes change(byte / 255) in single precision.
void write_changed(const Output& output, const ColorChange& change);

/// Mean of the window's pixels per channel, in [0, 1]; black ones count.
std::array<double, 3> mean_color(const Output& output);

}  // namespace iabn::data
