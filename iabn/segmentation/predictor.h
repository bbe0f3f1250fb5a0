#pragma once

// The classes of a picture's pixels, by a network.

#include <array>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>
#include <c10/core/ScalarType.h>

#include "iabn/data/image.h"

namespace iabn::models {
class Network;
}

namespace iabn::segmentation {

/// How the views of a picture (scales, mirrored or not) become one answer, from softmax scores at the picture's size:
enum class Fusion {
  kMean,    ///< the class with the highest mean; confidence: that mean
  kVoting,  ///< the class with most votes, the lowest index on ties; confidence: mean score of it over all views
  kMax,     ///< the class of the most confident view, the first on ties; confidence: its score
};

/// "mean", "voting" or "max"; anything else throws std::invalid_argument naming the choices.
Fusion fusion_from_name(const std::string& name);

struct PredictorOptions {
  std::vector<double> scales = {1};
  bool flip = false;  // every scale mirrored as well
  Fusion fusion = Fusion::kMean;
  /// The picture is first scaled so that its longest side is this many pixels (sizes truncated to whole pixels); the
  /// answer comes back by nearest neighbour. 0: as it is.
  int64_t longest_side = 0;
  /// Side of the tiles that go through the network one by one, half overlapping, whose scores are averaged where they
  /// overlap; bounds the memory. 0: each view at once.
  int64_t window = 0;
  std::vector<double> mean = {0.485, 0.456, 0.406};  // of values in [0, 1]
  std::vector<double> std = {0.229, 0.224, 0.225};
  bool channels_last = false;
  at::ScalarType dtype = at::kFloat;  // of autocast: float32, bfloat16 or float16
};

struct Prediction {
  at::Tensor labels;      // uint8 [H, W], on the device
  at::Tensor confidence;  // float32 [H, W], on the device; in [0, 1]
};

/// The network must be in evaluation mode on the device, give logits [N, classes, h, w] for [N, 3, H, W], at most 256
/// classes, and outlive the predictor.
class Predictor {
 public:
  /// Throws std::invalid_argument for options that cannot work, e.g. no scale.
  Predictor(models::Network& network, const PredictorOptions& options, c10::Device device);

  /// image: RGB. The answer has the image's height and width. Memory on the device does not grow with the picture where
  /// `window` is set, but for what one number per class and pixel of the scaled picture takes.
  Prediction operator()(const data::Image& image);

 private:
  models::Network& network_;
  PredictorOptions options_;
  c10::Device device_;
};

}  // namespace iabn::segmentation
