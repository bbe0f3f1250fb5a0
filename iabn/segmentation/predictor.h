#pragma once

// The classes of a picture's pixels, by a network.
//
// The picture is scaled so that its longest side has `longest_side` pixels, by bilinear interpolation with antialiasing
// to 8 bits, as data::resize does and Pillow. What comes out, [H, W], is normalised, (value / 255 - mean) / std, and
// each view goes through the network: for every scale the picture resized bilinearly to round(scale * H) x
// round(scale * W), halves to even, align_corners = false, no antialiasing, on the device; with `flip` mirrored as
// well. The logits (mirrored back) are resized to [H, W] in the same way, in float32, and only then does softmax make
// scores of them, which are fused. The answer comes back to the picture's own size by nearest neighbour. Sizes are at
// least 1.

#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>
#include <c10/core/ScalarType.h>

#include "iabn/data/image.h"
#include "iabn/segmentation/fusion.h"

namespace iabn::models {
class Network;
}

namespace iabn::segmentation {

/// PredictorOptions::window for tiles only where a picture is huge: where its largest view has more than kWholePixels.
/// The side is then the largest multiple of 32 whose largest view is no larger.
inline constexpr int64_t kAutomaticWindow = -1;
inline constexpr int64_t kWholePixels = int64_t{1} << 23;

struct PredictorOptions {
  std::vector<double> scales = {1};
  bool flip = false;  // every scale mirrored as well
  Fusion fusion = Fusion::kMean;
  int64_t longest_side = 0;  // the other side is rounded down; 0: as it is
  /// Side of the tiles that go through the network one by one, in pixels of the scaled picture: [H, W] is cut into
  /// tiles that overlap by half (the last of a row and of a column ends with the picture), the scale is applied to a
  /// tile, and where tiles overlap each view's score is the mean of theirs. 0: each view at once; kAutomaticWindow.
  int64_t window = 0;
  std::vector<double> mean = {0.485, 0.456, 0.406};  // of values in [0, 1]; as many as the picture has channels
  std::vector<double> std = {0.229, 0.224, 0.225};
  bool channels_last = false;
  at::ScalarType dtype = at::kFloat;  // of autocast: float32, bfloat16 or float16
};

/// Throws std::invalid_argument for options that cannot work, e.g. no scale.
void check_options(const PredictorOptions& options);

/// The network must be in evaluation mode on the device, give logits [N, classes, h, w] for [N, channels, H, W] with at
/// most 256 classes, and outlive the predictor.
///
/// Memory on the device: the network's for the largest tile of the largest view; the logits, at the network's own
/// resolution, of all views of the picture (with tiles: of two or three rows of tiles, whatever the picture's height);
/// scores of no more than a strip of rows, about 0.2 GB; and five bytes for each pixel of [H, W] and of the answer.
class Predictor {
 public:
  /// Throws what check_options() throws.
  Predictor(models::Network& network, const PredictorOptions& options, c10::Device device);

  /// The answer, on the device, has the image's height and width.
  Prediction operator()(const data::Image& image) const;

  /// operator() in two steps. The first is the processor's, and any number of threads may do it for other images at the
  /// same time: uint8 [H, W, channels] in pinned memory where the device is a GPU. Throws data::DecodeError where that
  /// would have more than data::kMaxPixels pixels.
  at::Tensor scaled(const data::Image& image) const;
  /// pixels: what scaled() returned; height, width: of the answer. On a GPU the host does not wait for the answer.
  Prediction predict(const at::Tensor& pixels, int64_t height, int64_t width) const;

  const PredictorOptions& options() const { return options_; }

 private:
  struct Tile;
  struct TileRow;
  TileRow tile_row(const at::Tensor& pixels, int64_t top, int64_t window) const;
  std::vector<at::Tensor> logits(const at::Tensor& pixels) const;
  at::Tensor scores(const std::vector<const TileRow*>& covering, size_t view, int64_t top, int64_t rows,
                    const at::Tensor& tiles_above) const;

  models::Network& network_;
  PredictorOptions options_;
  c10::Device device_;
  at::Tensor mean_, std_;  // of values up to 255: [channels, 1, 1]
};

}  // namespace iabn::segmentation
