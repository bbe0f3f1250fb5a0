#pragma once

// resnet*: post-activation residual networks.
//
// mod1 = conv1 (7x7, stride 2, 64 channels), bn1, max pooling (absent where the first module is dilated); mod2 to mod5
// of blocks block1, block2, ...: basic blocks of (64, 64) channels or bottlenecks of (64, 64, 256), twice as many in
// each further module; classifier.

#include <memory>
#include <vector>

#include "iabn/models/blocks.h"
#include "iabn/models/network.h"

namespace iabn::models {

class ResNet : public Network {
 public:
  /// blocks: of mod2 to mod5.
  ResNet(const NetworkOptions& options, const std::vector<int64_t>& blocks, bool bottleneck);
  torch::Tensor forward(torch::Tensor x) override;

 private:
  bool pools_;
  torch::nn::Conv2d conv1_{nullptr};
  std::shared_ptr<nn::NormActImpl> bn1_;
  std::vector<std::shared_ptr<ResidualBlock>> blocks_;
  std::shared_ptr<Classifier> classifier_;
};

}  // namespace iabn::models
