#pragma once

// A network that gives every pixel a class: a body of the registry, the DeepLabV3 head and a 1x1 convolution.

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "iabn/models/deeplab_v3.h"
#include "iabn/models/network.h"

namespace iabn::models {

struct SegmentationOptions {
  /// Name in the registry, and its options; body.classes is not used.
  std::string arch = "wider_resnet38_a2";
  NetworkOptions body;
  int64_t classes = 65;
  /// Of the head: see DeepLabV3Options.
  int64_t head_channels = 256;
  int64_t hidden_channels = 256;
  std::vector<int64_t> dilations = {12, 24, 36};
  std::optional<std::array<int64_t, 2>> pooling_size;
};

/// Children body, head and cls (with a bias), the original's names.
class SegmentationNetwork : public Network {
 public:
  /// Throws what make_network() throws.
  explicit SegmentationNetwork(const SegmentationOptions& options);

  /// x: [N, input_channels, H, W]; returns logits [N, classes, H', W'] at the resolution of the body's last feature
  /// map.
  torch::Tensor forward(torch::Tensor x) override;

  Network& body() { return *body_; }

 private:
  std::shared_ptr<Network> body_;
  std::shared_ptr<DeepLabV3> head_;
  torch::nn::Conv2d cls_{nullptr};
};

}  // namespace iabn::models
