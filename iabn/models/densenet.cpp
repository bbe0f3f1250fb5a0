#include "iabn/models/densenet.h"

#include <utility>

#include "iabn/nn/pooling.h"

namespace iabn::models {
namespace {

constexpr int64_t kGrowth = 32;
constexpr int64_t kBottleneck = 4 * kGrowth;

}  // namespace

DenseModule::DenseModule(const NormOptions& options, int64_t in_channels, int64_t layers, int64_t dilation) {
  auto convs1 = register_module("convs1", std::make_shared<Group>());
  auto convs3 = register_module("convs3", std::make_shared<Group>());
  for (int64_t i = 0; i < layers; ++i) {
    Layer layer{norm_act(options, in_channels + i * kGrowth), norm_act(options, kBottleneck),
                conv(in_channels + i * kGrowth, kBottleneck, 1), conv(kBottleneck, kGrowth, 3, {.dilation = dilation})};
    auto first = convs1->register_module(std::to_string(i), std::make_shared<Group>());
    first->register_module("bn", layer.bn1);
    first->register_module("conv", layer.conv1);
    auto second = convs3->register_module(std::to_string(i), std::make_shared<Group>());
    second->register_module("bn", layer.bn3);
    second->register_module("conv", layer.conv3);
    layers_.push_back(std::move(layer));
  }
}

torch::Tensor DenseModule::forward(torch::Tensor x) {
  std::vector<torch::Tensor> all{std::move(x)};
  for (Layer& layer : layers_) {
    // A fresh concatenation each time: an in-place norm overwrites it.
    torch::Tensor y = layer.bn1->forward(at::cat(all, 1));
    y = layer.conv1->forward(y);
    y = layer.bn3->forward(std::move(y));
    all.push_back(layer.conv3->forward(y));
  }
  return at::cat(all, 1);
}

DenseNet::DenseNet(const NetworkOptions& options, const std::vector<int64_t>& layers) {
  int64_t channels = 64;
  stem_ = register_module("mod1", std::make_shared<Stem>(options, channels));
  for (size_t module = 0; module < layers.size(); ++module) {
    const std::string number = std::to_string(module + 2);
    modules_.push_back(
        std::make_shared<DenseModule>(options, channels, layers[module], block_dilation(options.dilation, module)));
    register_module("mod" + number, modules_.back());
    channels += kGrowth * layers[module];
    if (module + 1 == layers.size()) break;
    auto group = register_module("tra" + number, std::make_shared<Group>());
    transitions_.push_back({norm_act(options, channels), conv(channels, channels / 2, 1),
                            block_dilation(options.dilation, module + 1) == 1});
    group->register_module("bn", transitions_.back().bn);
    group->register_module("conv", transitions_.back().conv);
    channels /= 2;
  }
  bn_out_ = register_module("bn_out", norm_act(options, channels));
  feature_channels_ = channels;
  if (options.classes > 0) {
    classifier_ = register_module("classifier", std::make_shared<Classifier>(channels, options.classes));
  }
}

torch::Tensor DenseNet::forward(torch::Tensor x) {
  x = stem_->forward(std::move(x));
  for (size_t module = 0; module < modules_.size(); ++module) {
    x = modules_[module]->forward(std::move(x));
    if (module == transitions_.size()) break;
    Transition& transition = transitions_[module];
    x = transition.bn->forward(std::move(x));
    x = transition.conv->forward(x);
    if (transition.pools) x = nn::avg_pool2d(std::move(x));
  }
  x = bn_out_->forward(std::move(x));
  return classifier_ ? classifier_->forward(std::move(x)) : x;
}

}  // namespace iabn::models
