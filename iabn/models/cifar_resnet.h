#pragma once

// cifar_resnet*: post-activation residual networks for 32x32 pictures, with 6n + 2 layers (He et al., "Deep Residual
// Learning for Image Recognition", section 4.2).
//
// conv1 (3x3, 16 channels), bn1; layer1 to layer3 of n blocks 0, 1, ... with 16, 32, 64 channels: conv1, bn1, conv2,
// bn2; linear. The first block of layer2 and layer3 halves the picture; its shortcut takes every other pixel and puts
// zeros into the further channels, half on each side (the paper's option A, no weights). The names are those of the
// weights that are in circulation.

#include <memory>
#include <vector>

#include "iabn/models/blocks.h"
#include "iabn/models/network.h"

namespace iabn::models {

class CifarBlock : public torch::nn::Module {
 public:
  CifarBlock(const NormOptions& options, int64_t in_channels, int64_t channels, int64_t stride);
  torch::Tensor forward(torch::Tensor x);

 private:
  NormOptions options_;
  int64_t stride_, further_channels_;
  std::shared_ptr<nn::NormActImpl> bn1_, bn2_;
  torch::nn::Conv2d conv1_{nullptr}, conv2_{nullptr};
};

class CifarResNet : public Network {
 public:
  /// blocks: of layer1, layer2, layer3.
  CifarResNet(const NetworkOptions& options, const std::vector<int64_t>& blocks);
  torch::Tensor forward(torch::Tensor x) override;

 private:
  torch::nn::Conv2d conv1_{nullptr};
  std::shared_ptr<nn::NormActImpl> bn1_;
  std::vector<std::shared_ptr<CifarBlock>> blocks_;
  torch::nn::Linear linear_{nullptr};
};

}  // namespace iabn::models
