#include "iabn/models/segmentation_network.h"

#include <utility>

#include "iabn/models/registry.h"

namespace iabn::models {

SegmentationNetwork::SegmentationNetwork(const SegmentationOptions& options) {
  NetworkOptions body = options.body;
  body.classes = 0;
  body_ = register_module("body", make_network(options.arch, body));
  DeepLabV3Options head;
  static_cast<NormOptions&>(head) = options.body;
  head.in_channels = body_->feature_channels();
  head.out_channels = options.head_channels;
  head.hidden_channels = options.hidden_channels;
  head.dilations = options.dilations;
  head.pooling_size = options.pooling_size;
  head_ = register_module("head", std::make_shared<DeepLabV3>(head));
  cls_ = register_module("cls", torch::nn::Conv2d(torch::nn::Conv2dOptions(options.head_channels, options.classes, 1)));
  feature_channels_ = options.head_channels;
}

torch::Tensor SegmentationNetwork::forward(torch::Tensor x) {
  x = body_->forward(std::move(x));
  return cls_->forward(head_->forward(std::move(x)));
}

}  // namespace iabn::models
