#pragma once

// From a decoded image to the network's input.

#include <cstdint>
#include <vector>

#include "iabn/data/geometry.h"
#include "iabn/data/image.h"
#include "iabn/data/options.h"
#include "iabn/data/random.h"

namespace iabn::data {

/// The transforms of one split; may be used by any number of threads at once.
/// Training: scale the shorter side to scale_train, augment to crop_train x crop_train, color_jitter_train,
/// lighting_train, normalise. Validation: scale the shorter side to scale_val, centre crop of crop_val, normalise.
/// Pixels outside the image are black (0 before normalisation). Normalised value: (pixel / 255 - mean[c]) / std[c].
class Transform {
 public:
  Transform(const InputOptions& options, Split split);

  /// Writes float32 [S, S, C] (channels_last) or [C, S, S] to `out`, S = size(). The image must have channels()
  /// channels.
  void operator()(const Image& image, Random random, bool channels_last, float* out) const;

  int64_t size() const { return size_; }
  int64_t channels() const { return options_.channels; }

 private:
  struct Window;
  Window augment(const Image& image, Random& random) const;

  InputOptions options_;
  Split split_;
  int64_t size_;
  std::vector<float> normalised_;  // [C, 256]: the output for each byte
  std::vector<float> unit_;        // [C, 256]: the byte / 255
};

}  // namespace iabn::data
