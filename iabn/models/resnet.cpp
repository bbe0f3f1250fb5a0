#include "iabn/models/resnet.h"

#include <utility>

#include "iabn/nn/pooling.h"

namespace iabn::models {

ResNet::ResNet(const NetworkOptions& options, const std::vector<int64_t>& blocks, bool bottleneck)
    : pools_(block_dilation(options.dilation, 0) == 1) {
  int64_t in_channels = 64;
  auto mod1 = register_module("mod1", std::make_shared<Group>());
  conv1_ = mod1->register_module("conv1", conv(options.input_channels, in_channels, 7, {.stride = 2}));
  bn1_ = mod1->register_module("bn1", norm_act(options, in_channels));
  for (size_t module = 0; module < blocks.size(); ++module) {
    auto group = register_module("mod" + std::to_string(module + 2), std::make_shared<Group>());
    const int64_t narrow = 64 << module;
    const std::vector<int64_t> channels =
        bottleneck ? std::vector<int64_t>{narrow, narrow, 4 * narrow} : std::vector<int64_t>{narrow, narrow};
    const int64_t dilation = block_dilation(options.dilation, module);
    for (int64_t block = 0; block < blocks[module]; ++block) {
      const bool strides = dilation == 1 && block == 0 && module > 0;
      const BlockShape shape{.stride = strides ? 2 : 1, .dilation = dilation};
      blocks_.push_back(group->register_module("block" + std::to_string(block + 1),
                                               std::make_shared<ResidualBlock>(options, in_channels, channels, shape)));
      in_channels = channels.back();
    }
  }
  feature_channels_ = in_channels;
  if (options.classes > 0) {
    classifier_ = register_module("classifier", std::make_shared<Classifier>(in_channels, options.classes));
  }
}

torch::Tensor ResNet::forward(torch::Tensor x) {
  x = conv1_->forward(x);
  x = bn1_->forward(std::move(x));
  if (pools_) x = nn::max_pool2d(std::move(x));
  for (auto& block : blocks_) x = block->forward(std::move(x));
  return classifier_ ? classifier_->forward(std::move(x)) : x;
}

}  // namespace iabn::models
