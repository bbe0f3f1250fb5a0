#include "iabn/models/cifar_resnet.h"

#include <utility>

namespace iabn::models {

CifarBlock::CifarBlock(const NormOptions& options, int64_t in_channels, int64_t channels, int64_t stride)
    : options_(options), stride_(stride), further_channels_(channels - in_channels) {
  conv1_ = register_module("conv1", conv(in_channels, channels, 3, {.stride = stride}));
  bn1_ = register_module("bn1", norm_act(options, channels));
  conv2_ = register_module("conv2", conv(channels, channels, 3));
  bn2_ = register_module("bn2", norm_only(options, channels));
}

torch::Tensor CifarBlock::forward(torch::Tensor x) {
  torch::Tensor y = bn1_->forward(conv1_->forward(x));
  y = conv2_->forward(y);
  y = bn2_->forward(std::move(y));
  torch::Tensor shortcut = std::move(x);
  if (stride_ != 1 || further_channels_ != 0) {
    const int64_t half = further_channels_ / 2;
    shortcut = at::constant_pad_nd(shortcut.slice(2, 0, std::nullopt, stride_).slice(3, 0, std::nullopt, stride_),
                                   {0, 0, 0, 0, half, further_channels_ - half});
    shortcut.add_(y);  // the padded copy is ours
    return activate_(std::move(shortcut), options_);
  }
  // An in-place norm needs its output y in backward; BatchNorm does not.
  y = options_.in_place() ? y + shortcut : y.add_(shortcut);
  return activate_(std::move(y), options_);
}

CifarResNet::CifarResNet(const NetworkOptions& options, const std::vector<int64_t>& blocks) {
  int64_t in_channels = 16;
  conv1_ = register_module("conv1", conv(options.input_channels, in_channels, 3));
  bn1_ = register_module("bn1", norm_act(options, in_channels));
  for (size_t layer = 0; layer < blocks.size(); ++layer) {
    auto group = register_module("layer" + std::to_string(layer + 1), std::make_shared<Group>());
    const int64_t channels = 16 << layer;
    for (int64_t block = 0; block < blocks[layer]; ++block) {
      const int64_t stride = layer > 0 && block == 0 ? 2 : 1;
      blocks_.push_back(group->register_module(std::to_string(block),
                                               std::make_shared<CifarBlock>(options, in_channels, channels, stride)));
      in_channels = channels;
    }
  }
  feature_channels_ = in_channels;
  if (options.classes > 0) linear_ = register_module("linear", torch::nn::Linear(in_channels, options.classes));
}

torch::Tensor CifarResNet::forward(torch::Tensor x) {
  x = conv1_->forward(x);
  x = bn1_->forward(std::move(x));
  for (auto& block : blocks_) x = block->forward(std::move(x));
  return linear_ ? linear_->forward(x.mean({2, 3})) : x;
}

}  // namespace iabn::models
