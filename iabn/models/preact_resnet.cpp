#include "iabn/models/preact_resnet.h"

#include <utility>

namespace iabn::models {
namespace {

torch::nn::Conv2d conv(int64_t in_channels, int64_t channels, int64_t kernel, int64_t stride) {
  return torch::nn::Conv2d(
      torch::nn::Conv2dOptions(in_channels, channels, kernel).stride(stride).padding(kernel / 2).bias(false));
}

std::shared_ptr<nn::NormActImpl> norm_act(const NetworkOptions& options, int64_t channels) {
  return nn::make_norm_act(options.norm_mode, nn::ABNOptions(channels)
                                                  .activation(options.activation)
                                                  .activation_param(options.activation_param)
                                                  .gamma(options.gamma));
}

// A nameless group of layers: gives its children the prefix of the state dict and computes nothing itself.
class Group : public torch::nn::Module {};

}  // namespace

IdentityBlock::IdentityBlock(const NetworkOptions& options, int64_t in_channels, int64_t channels, int64_t stride) {
  const bool projects = stride != 1 || in_channels != channels;
  keep_input_ = !projects && options.norm_mode != "standard";
  bn1_ = register_module("bn1", norm_act(options, in_channels));
  auto convs = register_module("convs", std::make_shared<Group>());
  conv1_ = convs->register_module("conv1", conv(in_channels, channels, 3, stride));
  bn2_ = convs->register_module("bn2", norm_act(options, channels));
  conv2_ = convs->register_module("conv2", conv(channels, channels, 3, 1));
  if (projects) proj_conv_ = register_module("proj_conv", conv(in_channels, channels, 1, stride));
}

torch::Tensor IdentityBlock::forward(torch::Tensor x) {
  torch::Tensor shortcut, z;
  if (proj_conv_) {
    z = bn1_->forward(std::move(x));
    shortcut = proj_conv_->forward(z);
  } else {
    // The copy lives on as bn1's output, which conv1 keeps anyway; x itself is freed after the addition. So an
    // in-place block holds two tensors for backward where a standard one holds four.
    z = bn1_->forward(keep_input_ ? x.clone() : x);
    shortcut = std::move(x);
  }
  torch::Tensor y = conv1_->forward(z);
  z.reset();
  y = bn2_->forward(std::move(y));
  y = conv2_->forward(y);
  return y.add_(shortcut);  // no one's backward reads conv2's output
}

PreactResNet::PreactResNet(const NetworkOptions& options, const std::vector<int64_t>& blocks) {
  int64_t channels = options.width;
  auto mod1 = register_module("mod1", std::make_shared<Group>());
  conv1_ = mod1->register_module("conv1", conv(options.input_channels, channels, 3, 1));
  for (size_t module = 0; module < blocks.size(); ++module) {
    auto group = register_module("mod" + std::to_string(module + 2), std::make_shared<Group>());
    const int64_t out_channels = options.width << module;
    for (int64_t block = 0; block < blocks[module]; ++block) {
      const int64_t stride = module > 0 && block == 0 ? 2 : 1;
      blocks_.push_back(std::make_shared<IdentityBlock>(options, channels, out_channels, stride));
      group->register_module("block" + std::to_string(block + 1), blocks_.back());
      channels = out_channels;
    }
  }
  bn_out_ = register_module("bn_out", norm_act(options, channels));
  if (options.classes > 0) {
    auto classifier = register_module("classifier", std::make_shared<Group>());
    fc_ = classifier->register_module("fc", torch::nn::Linear(channels, options.classes));
  }
}

torch::Tensor PreactResNet::forward(torch::Tensor x) {
  x = conv1_->forward(x);
  for (auto& block : blocks_) x = block->forward(std::move(x));
  x = bn_out_->forward(std::move(x));
  return fc_ ? fc_->forward(x.mean({2, 3})) : x;
}

}  // namespace iabn::models
