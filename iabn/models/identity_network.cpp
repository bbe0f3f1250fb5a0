#include "iabn/models/identity_network.h"

#include <array>
#include <utility>

#include "iabn/nn/pooling.h"

namespace iabn::models {

torch::Tensor IdentityNetwork::forward(torch::Tensor x) {
  x = begin(std::move(x));
  for (Part& part : modules_) {
    if (part.pool_before) x = nn::max_pool2d(std::move(x));
    for (auto& block : part.blocks) x = block->forward(std::move(x));
  }
  x = bn_out_->forward(std::move(x));
  return classifier_ ? classifier_->forward(std::move(x)) : x;
}

void IdentityNetwork::add_module(const NormOptions& options, int64_t in_channels, const std::vector<int64_t>& channels,
                                 int64_t blocks, const std::function<BlockShape(int64_t)>& shape, bool pool_before) {
  auto group = register_module("mod" + std::to_string(modules_.size() + 2), std::make_shared<Group>());
  Part& part = modules_.emplace_back();
  part.pool_before = pool_before;
  for (int64_t block = 0; block < blocks; ++block) {
    part.blocks.push_back(std::make_shared<IdentityBlock>(options, in_channels, channels, shape(block)));
    group->register_module("block" + std::to_string(block + 1), part.blocks.back());
    in_channels = channels.back();
  }
}

void IdentityNetwork::add_end(const NetworkOptions& options, int64_t channels) {
  bn_out_ = register_module("bn_out", norm_act(options, channels));
  feature_channels_ = channels;
  if (options.classes > 0) {
    classifier_ = register_module("classifier", std::make_shared<Classifier>(channels, options.classes));
  }
}

ResNeXt::ResNeXt(const NetworkOptions& options, const std::vector<int64_t>& blocks) {
  int64_t in_channels = 64;
  stem_ = register_module("mod1", std::make_shared<Stem>(options, in_channels));
  for (size_t module = 0; module < blocks.size(); ++module) {
    const std::vector<int64_t> channels{128 << module, 128 << module, 256 << module};
    add_module(options, in_channels, channels, blocks[module], [&](int64_t block) {
      const int64_t dilation = block_dilation(options.dilation, module, static_cast<size_t>(block));
      const bool strides = dilation == 1 && block == 0 && module > 0;
      return BlockShape{.stride = strides ? 2 : 1, .dilation = dilation, .groups = 64};
    });
    in_channels = channels.back();
  }
  add_end(options, in_channels);
}

torch::Tensor ResNeXt::begin(torch::Tensor x) { return stem_->forward(std::move(x)); }

WiderResNet::WiderResNet(const NetworkOptions& options, const std::vector<int64_t>& blocks, bool strided) {
  const std::array<std::vector<int64_t>, 6> channels{
      {{128, 128}, {256, 256}, {512, 512}, {512, 1024}, {512, 1024, 2048}, {1024, 2048, 4096}}};
  const bool dilated = strided && switched_on(options.dilation);
  int64_t in_channels = 64;
  auto mod1 = register_module("mod1", std::make_shared<Group>());
  conv1_ = mod1->register_module("conv1", conv(options.input_channels, in_channels, 3));
  for (size_t module = 0; module < blocks.size(); ++module) {
    const int number = static_cast<int>(module) + 2;  // as in the name
    const bool pools = number <= (strided ? 3 : 6);
    const bool strides = strided && number >= 4 && number <= (dilated ? 4 : 6);
    const double dropout = !strided || number < 6 ? 0 : number == 6 ? 0.3 : 0.5;
    const int64_t dilation = !dilated || number < 5 ? 1 : number == 5 ? 2 : 4;
    add_module(
        options, in_channels, channels[module], blocks[module],
        [&](int64_t block) {
          return BlockShape{.stride = strides && block == 0 ? 2 : 1, .dilation = dilation, .dropout = dropout};
        },
        pools);
    in_channels = channels[module].back();
  }
  add_end(options, in_channels);
}

torch::Tensor WiderResNet::begin(torch::Tensor x) { return conv1_->forward(x); }

PreactResNet::PreactResNet(const NetworkOptions& options, const std::vector<int64_t>& blocks) {
  int64_t in_channels = options.width;
  auto mod1 = register_module("mod1", std::make_shared<Group>());
  conv1_ = mod1->register_module("conv1", conv(options.input_channels, in_channels, 3));
  for (size_t module = 0; module < blocks.size(); ++module) {
    const int64_t channels = options.width << module;
    add_module(options, in_channels, {channels, channels}, blocks[module],
               [&](int64_t block) { return BlockShape{.stride = module > 0 && block == 0 ? 2 : 1}; });
    in_channels = channels;
  }
  add_end(options, in_channels);
}

torch::Tensor PreactResNet::begin(torch::Tensor x) { return conv1_->forward(x); }

}  // namespace iabn::models
