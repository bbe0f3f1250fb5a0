#pragma once

// What every network of the registry has in common.

#include <cstdint>
#include <string>

#include <torch/nn/module.h>

#include "iabn/models/dilation.h"
#include "iabn/nn/functional.h"

namespace iabn::models {

/// The norm layers of a network, and the activation behind each.
struct NormOptions {
  /// "standard" (BatchNorm, then activation), "inplace" (InPlace-ABN) or "sync": see iabn::nn::make_norm_act.
  std::string norm_mode = "standard";
  /// "relu", "leaky_relu", "elu" or "identity", with its slope or alpha.
  std::string activation = "relu";
  double activation_param = 0.01;
  /// How a norm layer's weight counts; legacy is for norm_mode "inplace".
  nn::GammaMode gamma = nn::GammaMode::kSigned;

  /// Norm layers write over their input and need their output in backward: no one else may write over either.
  bool in_place() const { return norm_mode != "standard"; }
};

struct NetworkOptions : NormOptions {
  /// 0: no classifier, forward returns the last feature map.
  int64_t classes = 1000;
  int64_t input_channels = 3;
  /// Of preact_resnet*: channels of the first module; each further module doubles them.
  int64_t width = 16;
  /// ResNeXt and DenseNet: three 3x3 convolutions at the start instead of one 7x7.
  bool input_3x3 = false;
  /// Other than 1, it takes away the stride of its module.
  Dilation dilation = int64_t{1};
};

class Network : public torch::nn::Module {
 public:
  /// x: [N, input_channels, H, W]; returns [N, classes], or [N, C, H', W'] where classes is 0.
  virtual torch::Tensor forward(torch::Tensor x) = 0;

  /// Channels of the last feature map, which `classes` 0 returns.
  int64_t feature_channels() const { return feature_channels_; }

 protected:
  int64_t feature_channels_ = 0;  // for a derived class to set
};

}  // namespace iabn::models
