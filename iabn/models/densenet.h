#pragma once

// densenet*: every layer sees the outputs of all layers before it in its module.
//
// mod1 = Stem with 64 channels; mod2 to mod5 dense; tra2 to tra4, each after the module of its number: bn, conv (1x1,
// to half the channels), and an average pooling of 2 unless the next module is dilated; bn_out; classifier.

#include <memory>
#include <vector>

#include "iabn/models/blocks.h"
#include "iabn/models/network.h"

namespace iabn::models {

/// layers times: bn, 1x1 to 128 channels (convs1), then bn, 3x3 to 32 (convs3), on everything so far.
class DenseModule : public torch::nn::Module {
 public:
  DenseModule(const NormOptions& options, int64_t in_channels, int64_t layers, int64_t dilation);
  /// Returns the input and all outputs, [N, in_channels + 32*layers, H, W].
  torch::Tensor forward(torch::Tensor x);

 private:
  struct Layer {
    std::shared_ptr<nn::NormActImpl> bn1, bn3;
    torch::nn::Conv2d conv1, conv3;
  };
  std::vector<Layer> layers_;
};

class DenseNet : public Network {
 public:
  /// layers: of mod2 to mod5.
  DenseNet(const NetworkOptions& options, const std::vector<int64_t>& layers);
  torch::Tensor forward(torch::Tensor x) override;

 private:
  struct Transition {
    std::shared_ptr<nn::NormActImpl> bn;
    torch::nn::Conv2d conv;
    bool pools;
  };
  std::shared_ptr<Stem> stem_;
  std::vector<std::shared_ptr<DenseModule>> modules_;
  std::vector<Transition> transitions_;  // after modules_[i]
  std::shared_ptr<nn::NormActImpl> bn_out_;
  std::shared_ptr<Classifier> classifier_;
};

}  // namespace iabn::models
