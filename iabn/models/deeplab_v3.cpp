#include "iabn/models/deeplab_v3.h"

#include <algorithm>
#include <stdexcept>
#include <utility>

namespace iabn::models {

DeepLabV3::DeepLabV3(const DeepLabV3Options& options) : pooling_size_(options.pooling_size) {
  if (pooling_size_ && std::min((*pooling_size_)[0], (*pooling_size_)[1]) < 1) {
    throw std::invalid_argument("deeplab_v3: pooling_size must be at least 1 in both directions");
  }
  const int64_t hidden = options.hidden_channels;
  auto group = register_module("map_convs", std::make_shared<Group>());
  const auto add = [&](int64_t kernel, int64_t dilation) {
    map_convs_.push_back(group->register_module(std::to_string(map_convs_.size()),
                                                conv(options.in_channels, hidden, kernel, {.dilation = dilation})));
  };
  add(1, 1);
  for (const int64_t dilation : options.dilations) add(3, dilation);
  const int64_t mapped = hidden * static_cast<int64_t>(map_convs_.size());
  map_bn_ = register_module("map_bn", norm_act(options, mapped));
  global_pooling_conv_ = register_module("global_pooling_conv", conv(options.in_channels, hidden, 1));
  global_pooling_bn_ = register_module("global_pooling_bn", norm_act(options, hidden));
  red_conv_ = register_module("red_conv", conv(mapped, options.out_channels, 1));
  pool_red_conv_ = register_module("pool_red_conv", conv(hidden, options.out_channels, 1));
  red_bn_ = register_module("red_bn", norm_act(options, options.out_channels));
}

torch::Tensor DeepLabV3::forward(torch::Tensor x) {
  torch::Tensor y;
  {
    std::vector<torch::Tensor> maps;
    for (auto& map_conv : map_convs_) maps.push_back(map_conv->forward(x));
    y = at::cat(maps, 1);
  }
  y = map_bn_->forward(std::move(y));
  y = red_conv_->forward(y);
  torch::Tensor pool = pooled(x);
  x.reset();
  pool = global_pooling_bn_->forward(std::move(pool));
  y.add_(pool_red_conv_->forward(pool));  // a global average is the same for every pixel: it is broadcast
  return red_bn_->forward(std::move(y));
}

torch::Tensor DeepLabV3::pooled(const torch::Tensor& x) {
  if (is_training() || !pooling_size_) return global_pooling_conv_->forward(x.mean({2, 3}, /*keepdim=*/true));
  // The convolution first, which leaves far fewer channels to average: of a mean or the mean of it, it is the same.
  const torch::Tensor y = global_pooling_conv_->forward(x);
  const int64_t height = std::min((*pooling_size_)[0], y.size(2)), width = std::min((*pooling_size_)[1], y.size(3));
  // Rows, then columns: every window is whole, so it is the same mean, from height + width numbers instead of their
  // product, which for a window of 84 x 84 takes longer than the rest of the network.
  const torch::Tensor means = at::avg_pool2d(at::avg_pool2d(y, {height, 1}, /*stride=*/1), {1, width}, /*stride=*/1);
  return at::replication_pad2d(means, {(width - 1) / 2, width / 2, (height - 1) / 2, height / 2});
}

}  // namespace iabn::models
