#pragma once

// What the networks are made of. Every module here takes its input by value and lets go of it as early as it can: in an
// in-place network nothing else keeps it (docs/design/2-memory.md).

#include <memory>
#include <string>
#include <vector>

#include <torch/nn/modules/conv.h>
#include <torch/nn/modules/dropout.h>
#include <torch/nn/modules/linear.h>

#include "iabn/models/network.h"
#include "iabn/nn/abn.h"

namespace iabn::models {

/// A nameless group of layers: gives its children the prefix of the state dict and computes nothing itself.
class Group : public torch::nn::Module {};

struct ConvShape {
  int64_t stride = 1, dilation = 1, groups = 1;
};

/// A convolution without bias that keeps the picture's size where the stride is 1.
torch::nn::Conv2d conv(int64_t in_channels, int64_t channels, int64_t kernel, const ConvShape& shape = {});

/// The norm layer of the network's mode with the network's activation.
std::shared_ptr<nn::NormActImpl> norm_act(const NormOptions& options, int64_t channels);
/// The same without an activation.
std::shared_ptr<nn::NormActImpl> norm_only(const NormOptions& options, int64_t channels);

/// The network's activation, written over x; its backward reads the result.
torch::Tensor activate_(torch::Tensor x, const NormOptions& options);

struct BlockShape {
  int64_t stride = 1, dilation = 1;
  int64_t groups = 1;  // of a bottleneck's 3x3
  double dropout = 0;  // probability for whole channels, before the last convolution; identity blocks only
};

/// A block behind an addition and an activation: act(convs(x) + shortcut), the last norm of convs without activation.
/// channels {a, b}: 3x3 (with the stride), 3x3; {a, b, c}: 1x1, 3x3 (with the stride), 1x1. The shortcut is x, or
/// proj_bn(proj_conv(x)) where channels or stride change.
class ResidualBlock : public torch::nn::Module {
 public:
  ResidualBlock(const NormOptions& options, int64_t in_channels, const std::vector<int64_t>& channels,
                const BlockShape& shape);
  torch::Tensor forward(torch::Tensor x);

 private:
  NormOptions options_;
  std::vector<torch::nn::Conv2d> convs_;
  std::vector<std::shared_ptr<nn::NormActImpl>> norms_;
  torch::nn::Conv2d proj_conv_{nullptr};
  std::shared_ptr<nn::NormActImpl> proj_bn_;
};

/// An identity mapping: convs(bn1(x)) + shortcut, where every norm comes before its convolution.
/// channels {a, b}: 3x3 (with the stride), 3x3; {a, b, c}: 1x1 (with the stride), 3x3, 1x1. The shortcut is x, or
/// proj_conv(bn1(x)) where channels or stride change.
class IdentityBlock : public torch::nn::Module {
 public:
  IdentityBlock(const NormOptions& options, int64_t in_channels, const std::vector<int64_t>& channels,
                const BlockShape& shape);
  /// The caller gives x up: in-place networks overwrite it where no one else needs it.
  torch::Tensor forward(torch::Tensor x);

 private:
  bool keep_input_;  // the shortcut is x itself and bn1 would overwrite it
  std::shared_ptr<nn::NormActImpl> bn1_;
  std::vector<torch::nn::Conv2d> convs_;
  std::vector<std::shared_ptr<nn::NormActImpl>> norms_;  // norms_[i] comes before convs_[i + 1]
  torch::nn::Dropout2d dropout_{nullptr};
  torch::nn::Conv2d proj_conv_{nullptr};
};

/// mod1 of ResNeXt and DenseNet: 7x7 convolution with stride 2, or three 3x3 ones with norms between; then max pooling.
class Stem : public torch::nn::Module {
 public:
  Stem(const NetworkOptions& options, int64_t channels);
  torch::Tensor forward(torch::Tensor x);

 private:
  std::vector<torch::nn::Conv2d> convs_;
  std::vector<std::shared_ptr<nn::NormActImpl>> norms_;
};

/// Global average, then the layer `fc`.
class Classifier : public torch::nn::Module {
 public:
  Classifier(int64_t in_channels, int64_t classes);
  /// x: [N, in_channels, H, W]; returns [N, classes].
  torch::Tensor forward(torch::Tensor x);

 private:
  torch::nn::Linear fc_;
};

}  // namespace iabn::models
