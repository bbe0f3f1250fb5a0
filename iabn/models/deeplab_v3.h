#pragma once

// The DeepLabV3 head: convolutions of several dilations side by side and a global average, reduced to one feature map.

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "iabn/models/blocks.h"
#include "iabn/models/network.h"

namespace iabn::models {

struct DeepLabV3Options : NormOptions {
  int64_t in_channels = 4096;
  int64_t out_channels = 256;
  int64_t hidden_channels = 256;
  /// Of the 3x3 convolutions, one each.
  std::vector<int64_t> dilations = {12, 24, 36};
  /// Height and width of the window of the average in evaluation mode: see DeepLabV3::forward. Empty: the whole map.
  std::optional<std::array<int64_t, 2>> pooling_size;
};

/// map_convs (0: 1x1, then a 3x3 for each dilation), concatenated, map_bn, red_conv; plus the global average through
/// global_pooling_conv, global_pooling_bn, pool_red_conv; the sum through red_bn.
class DeepLabV3 : public torch::nn::Module {
 public:
  explicit DeepLabV3(const DeepLabV3Options& options);
  /// x: [N, in_channels, H, W]; returns [N, out_channels, H, W].
  /// In evaluation mode with a pooling_size the average is that of a window around each pixel, smaller where the map
  /// is, and repeated at the borders; so a picture larger than those of training has averages like theirs.
  torch::Tensor forward(torch::Tensor x);

 private:
  torch::Tensor pooled(const torch::Tensor& x);

  std::optional<std::array<int64_t, 2>> pooling_size_;
  std::vector<torch::nn::Conv2d> map_convs_;
  std::shared_ptr<nn::NormActImpl> map_bn_, global_pooling_bn_, red_bn_;
  torch::nn::Conv2d global_pooling_conv_{nullptr}, red_conv_{nullptr}, pool_red_conv_{nullptr};
};

}  // namespace iabn::models
