#include "iabn/models/blocks.h"

#include <utility>

#include "iabn/nn/pooling.h"

namespace iabn::models {
namespace {

std::shared_ptr<nn::NormActImpl> make_norm(const NormOptions& options, const std::string& activation,
                                           int64_t channels) {
  return nn::make_norm_act(
      options.norm_mode,
      nn::ABNOptions(channels).activation(activation).activation_param(options.activation_param).gamma(options.gamma));
}

// "conv1", "bn3", ...
std::string numbered(const char* name, size_t number) { return name + std::to_string(number); }

}  // namespace

torch::nn::Conv2d conv(int64_t in_channels, int64_t channels, int64_t kernel, const ConvShape& shape) {
  return torch::nn::Conv2d(torch::nn::Conv2dOptions(in_channels, channels, kernel)
                               .stride(shape.stride)
                               .padding(kernel / 2 * shape.dilation)
                               .dilation(shape.dilation)
                               .groups(shape.groups)
                               .bias(false));
}

std::shared_ptr<nn::NormActImpl> norm_act(const NormOptions& options, int64_t channels) {
  return make_norm(options, options.activation, channels);
}

std::shared_ptr<nn::NormActImpl> norm_only(const NormOptions& options, int64_t channels) {
  return make_norm(options, "identity", channels);
}

torch::Tensor activate_(torch::Tensor x, const NormOptions& options) {
  switch (nn::parse_activation(options.activation, options.activation_param).kind) {
    case Activation::kLeakyReLU:
      return at::leaky_relu_(x, options.activation_param);
    case Activation::kELU:
      return at::elu_(x, options.activation_param);
    case Activation::kReLU:
      return at::relu_(x);
    case Activation::kIdentity:
      break;
  }
  return x;
}

ResidualBlock::ResidualBlock(const NormOptions& options, int64_t in_channels, const std::vector<int64_t>& channels,
                             const BlockShape& shape)
    : options_(options) {
  const bool bottleneck = channels.size() == 3;
  auto group = register_module("convs", std::make_shared<Group>());
  int64_t from = in_channels;
  for (size_t i = 0; i < channels.size(); ++i) {
    const bool wide = !bottleneck || i == 1, strided = i == (bottleneck ? 1 : 0), last = i + 1 == channels.size();
    const ConvShape conv_shape{.stride = strided ? shape.stride : 1,
                               .dilation = wide ? shape.dilation : 1,
                               .groups = bottleneck && wide ? shape.groups : 1};
    convs_.push_back(
        group->register_module(numbered("conv", i + 1), conv(from, channels[i], wide ? 3 : 1, conv_shape)));
    norms_.push_back(group->register_module(numbered("bn", i + 1),
                                            last ? norm_only(options, channels[i]) : norm_act(options, channels[i])));
    from = channels[i];
  }
  if (shape.stride == 1 && in_channels == from) return;
  proj_conv_ = register_module("proj_conv", conv(in_channels, from, 1, {.stride = shape.stride}));
  proj_bn_ = register_module("proj_bn", norm_only(options, from));
}

torch::Tensor ResidualBlock::forward(torch::Tensor x) {
  torch::Tensor y = norms_[0]->forward(convs_[0]->forward(x));
  torch::Tensor shortcut = std::move(x);
  for (size_t i = 1; i < convs_.size(); ++i) {
    y = convs_[i]->forward(y);
    y = norms_[i]->forward(std::move(y));
  }
  if (proj_conv_) {
    shortcut = proj_conv_->forward(shortcut);
    shortcut = proj_bn_->forward(std::move(shortcut));
  }
  // An in-place norm needs its output y in backward; BatchNorm does not.
  y = options_.in_place() ? y + shortcut : y.add_(shortcut);
  return activate_(std::move(y), options_);
}

IdentityBlock::IdentityBlock(const NormOptions& options, int64_t in_channels, const std::vector<int64_t>& channels,
                             const BlockShape& shape) {
  const bool bottleneck = channels.size() == 3;
  const bool projects = shape.stride != 1 || in_channels != channels.back();
  keep_input_ = !projects && options.in_place();
  bn1_ = register_module("bn1", norm_act(options, in_channels));
  auto group = register_module("convs", std::make_shared<Group>());
  int64_t from = in_channels;
  for (size_t i = 0; i < channels.size(); ++i) {
    if (i > 0) norms_.push_back(group->register_module(numbered("bn", i + 1), norm_act(options, from)));
    if (i + 1 == channels.size() && shape.dropout > 0) {
      dropout_ = group->register_module("dropout", torch::nn::Dropout2d(shape.dropout));
    }
    const bool wide = !bottleneck || i == 1;
    const ConvShape conv_shape{.stride = i == 0 ? shape.stride : 1,
                               .dilation = wide ? shape.dilation : 1,
                               .groups = bottleneck && wide ? shape.groups : 1};
    convs_.push_back(
        group->register_module(numbered("conv", i + 1), conv(from, channels[i], wide ? 3 : 1, conv_shape)));
    from = channels[i];
  }
  if (projects) proj_conv_ = register_module("proj_conv", conv(in_channels, from, 1, {.stride = shape.stride}));
}

torch::Tensor IdentityBlock::forward(torch::Tensor x) {
  torch::Tensor shortcut, z;
  if (proj_conv_) {
    z = bn1_->forward(std::move(x));
    shortcut = proj_conv_->forward(z);
  } else {
    // The copy lives on as bn1's output, which conv1 keeps anyway; x itself is freed after the addition. So an
    // in-place block holds one tensor per convolution for backward where a standard one holds two.
    z = bn1_->forward(keep_input_ ? x.clone() : x);
    shortcut = std::move(x);
  }
  torch::Tensor y = convs_[0]->forward(z);
  z.reset();
  for (size_t i = 1; i < convs_.size(); ++i) {
    y = norms_[i - 1]->forward(std::move(y));
    if (dropout_ && i + 1 == convs_.size()) y = dropout_->forward(y);
    y = convs_[i]->forward(y);
  }
  return y.add_(shortcut);  // no one's backward reads the last convolution's output
}

Stem::Stem(const NetworkOptions& options, int64_t channels) {
  const auto add = [&](int64_t from, int64_t kernel, int64_t stride) {
    convs_.push_back(
        register_module(numbered("conv", convs_.size() + 1), conv(from, channels, kernel, {.stride = stride})));
  };
  add(options.input_channels, options.input_3x3 ? 3 : 7, 2);
  if (!options.input_3x3) return;
  for (int more = 0; more < 2; ++more) {
    norms_.push_back(register_module(numbered("bn", norms_.size() + 1), norm_act(options, channels)));
    add(channels, 3, 1);
  }
}

torch::Tensor Stem::forward(torch::Tensor x) {
  x = convs_[0]->forward(x);
  for (size_t i = 1; i < convs_.size(); ++i) {
    x = norms_[i - 1]->forward(std::move(x));
    x = convs_[i]->forward(x);
  }
  return nn::max_pool2d(std::move(x));
}

Classifier::Classifier(int64_t in_channels, int64_t classes)
    : fc_(register_module("fc", torch::nn::Linear(in_channels, classes))) {}

torch::Tensor Classifier::forward(torch::Tensor x) { return fc_->forward(x.mean({2, 3})); }

}  // namespace iabn::models
