#include "iabn/train/averaged_weights.h"

#include <algorithm>

#include <ATen/ATen.h>
#include <torch/nn/module.h>

namespace iabn::train {

AveragedWeights::AveragedWeights(const torch::nn::Module& network, double decay) : decay_(decay) {
  const at::NoGradGuard no_grad;
  const auto add = [this](const std::string& name, const at::Tensor& weight) {
    weights_.push_back(weight);
    averages_.emplace_back(name, weight.detach().clone());
  };
  for (const auto& item : network.named_parameters()) add(item.key(), item.value());
  for (const auto& item : network.named_buffers()) add(item.key(), item.value());
  size_t largest = 0;
  for (const at::Tensor& weight : weights_) largest = std::max(largest, weight.nbytes());
  if (weights_.empty()) return;
  scratch_ = at::empty({static_cast<int64_t>(largest)}, weights_[0].options().dtype(at::kByte).requires_grad(false));
}

void AveragedWeights::reset() {
  const at::NoGradGuard no_grad;
  for (size_t i = 0; i < weights_.size(); ++i) averages_[i].second.copy_(weights_[i]);
}

void AveragedWeights::update() {
  const at::NoGradGuard no_grad;
  std::vector<at::Tensor> averages, weights;
  for (size_t i = 0; i < weights_.size(); ++i) {
    if (weights_[i].is_floating_point()) {
      averages.push_back(averages_[i].second);
      weights.push_back(weights_[i].detach());
    } else {
      averages_[i].second.copy_(weights_[i]);
    }
  }
  at::_foreach_lerp_(averages, weights, 1 - decay_);
}

void AveragedWeights::swap() {
  const at::NoGradGuard no_grad;
  for (size_t i = 0; i < weights_.size(); ++i) {
    at::Tensor& average = averages_[i].second;
    const at::Tensor weight =
        scratch_.narrow(0, 0, static_cast<int64_t>(average.nbytes())).view(average.scalar_type()).view(average.sizes());
    weight.copy_(weights_[i]);
    weights_[i].copy_(average);
    average.copy_(weight);
  }
}

}  // namespace iabn::train
