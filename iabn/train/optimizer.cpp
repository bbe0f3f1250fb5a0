#include "iabn/train/optimizer.h"

#include <algorithm>
#include <optional>
#include <stdexcept>

#include <ATen/ATen.h>
#include <torch/nn/module.h>

#include "iabn/train/precision.h"

namespace iabn::train {
namespace {

constexpr double kBeta1 = 0.9, kBeta2 = 0.999, kEps = 1e-8;  // of Adam: PyTorch's defaults

// Of segmentation: what lies on top of the body.
bool is_classifier(const std::string& name) {
  return name.find("fc") != std::string::npos || name.starts_with("head.") || name.starts_with("cls.");
}

template <class Indices>
std::vector<at::Tensor> pick(const std::vector<at::Tensor>& tensors, const Indices& indices) {
  std::vector<at::Tensor> result;
  if (tensors.empty()) return result;
  for (const int64_t i : indices) result.push_back(tensors[static_cast<size_t>(i)]);
  return result;
}

std::vector<at::Tensor> gradients_of(const std::vector<at::Tensor>& parameters) {
  std::vector<at::Tensor> gradients;
  for (const at::Tensor& parameter : parameters) {
    if (parameter.grad().defined()) gradients.push_back(parameter.grad());
  }
  return gradients;
}

void copy_named(const TrainOptimizer::NamedTensors& from, const TrainOptimizer::NamedTensors& to, size_t parameter) {
  const auto fail = [parameter](const std::string& what) {
    throw std::invalid_argument("optimizer state of parameter " + std::to_string(parameter) + ": " + what);
  };
  if (from.size() != to.size()) fail("holds " + std::to_string(from.size()) + " tensors");
  for (const auto& [name, target] : to) {
    const auto found = std::find_if(from.begin(), from.end(), [&](const auto& item) { return item.first == name; });
    if (found == from.end()) fail("lacks " + name);
    if (found->second.sizes() != target.sizes()) fail(name + " has another shape");
    target.copy_(found->second);
  }
}

}  // namespace

TrainOptimizer::TrainOptimizer(const OptimizerConfig& config, const torch::nn::Module& network) : config_(config) {
  const at::NoGradGuard no_grad;
  Group body, classifier;
  for (const auto& item : network.named_parameters()) {
    if (!item.value().requires_grad()) continue;
    Group& group = is_classifier(item.key()) ? classifier : body;
    group.members.push_back(static_cast<int64_t>(parameters_.size()));
    parameters_.push_back(item.value());
  }
  const bool adam = config.type == "Adam";
  for (const at::Tensor& parameter : parameters_) {
    if (adam || config.momentum > 0) first_.push_back(at::zeros_like(parameter));
    if (adam) second_.push_back(at::zeros_like(parameter));
    if (adam) steps_.push_back(at::zeros({}, parameter.options().dtype(at::kFloat)));
  }
  body.initial_rate = config.learning_rate;
  classifier.initial_rate = config.classifier_lr < 0 ? config.learning_rate : config.classifier_lr;
  for (Group* group : {&body, &classifier}) {
    if (group->members.empty()) continue;
    const at::Tensor& any = parameters_[static_cast<size_t>(group->members.front())];
    if (any.is_cuda()) group->device_rate = at::zeros({}, any.options().dtype(at::kFloat));
    groups_.push_back(std::move(*group));
  }
  scale_learning_rates(1);
}

void TrainOptimizer::scale_learning_rates(double factor) {
  const at::NoGradGuard no_grad;
  for (Group& group : groups_) {
    group.rate = group.initial_rate * factor;
    if (group.device_rate.defined()) group.device_rate.fill_(group.rate);
  }
}

void TrainOptimizer::zero_grad() {
  for (at::Tensor& parameter : parameters_) parameter.mutable_grad().reset();
}

// As torch.nn.utils.clip_grad_norm_, without reading the norm back.
void TrainOptimizer::clip(const std::vector<at::Tensor>& gradients) const {
  const at::Tensor norm = at::stack(at::_foreach_norm(gradients)).norm();
  at::_foreach_mul_(gradients, (config_.clip / (norm + 1e-6)).clamp_max(1.0));
}

void TrainOptimizer::step(LossScaler* scaler) {
  const at::NoGradGuard no_grad;
  const std::vector<at::Tensor> gradients = gradients_of(parameters_);
  if (gradients.empty()) return;
  std::optional<at::Tensor> found_inf;
  if (scaler != nullptr) found_inf = scaler->unscale(gradients);
  if (config_.clip > 0) clip(gradients);
  for (const Group& group : groups_) step_group(group, found_inf);
  if (scaler != nullptr) scaler->update();
}

void TrainOptimizer::step_group(const Group& group, const std::optional<at::Tensor>& found_inf) {
  std::vector<int64_t> members;
  for (const int64_t i : group.members) {
    if (parameters_[static_cast<size_t>(i)].grad().defined()) members.push_back(i);
  }
  if (members.empty()) return;
  const auto parameters = pick(parameters_, members), first = pick(first_, members), second = pick(second_, members),
             steps = pick(steps_, members), gradients = gradients_of(parameters);
  const double decay = config_.weight_decay;
  const auto run = [&](const auto& rate) {
    if (config_.type == "Adam") {
      at::_fused_adam_(parameters, gradients, first, second, {}, steps, rate, kBeta1, kBeta2, decay, kEps,
                       /*amsgrad=*/false, /*maximize=*/false, std::nullopt, found_inf);
    } else {
      // A momentum buffer of zeros and a first step give PyTorch's first buffer, the gradient itself.
      at::_fused_sgd_(parameters, gradients, first, decay, config_.momentum, rate, /*dampening=*/0,
                      config_.nesterov && config_.momentum > 0, /*maximize=*/false, /*is_first_step=*/false,
                      std::nullopt, found_inf);
    }
  };
  if (!steps.empty()) at::_foreach_add_(steps, 1);
  if (group.device_rate.defined()) {
    run(group.device_rate);
  } else {
    run(group.rate);
  }
  // A step that was not taken doesn't count.
  if (!steps.empty() && found_inf) at::_foreach_sub_(steps, std::vector<at::Tensor>(steps.size(), *found_inf));
}

std::vector<TrainOptimizer::NamedTensors> TrainOptimizer::state() const {
  std::vector<NamedTensors> result(parameters_.size());
  for (size_t i = 0; i < parameters_.size(); ++i) {
    if (config_.type == "Adam") {
      result[i] = {{"step", steps_[i]}, {"exp_avg", first_[i]}, {"exp_avg_sq", second_[i]}};
    } else if (!first_.empty()) {
      result[i] = {{"momentum_buffer", first_[i]}};
    }
  }
  return result;
}

void TrainOptimizer::load_state(const std::vector<NamedTensors>& state) {
  const at::NoGradGuard no_grad;
  const auto own = this->state();
  if (state.size() != own.size()) {
    throw std::invalid_argument("optimizer state is of " + std::to_string(state.size()) +
                                " parameters, the network has " + std::to_string(own.size()));
  }
  for (size_t i = 0; i < own.size(); ++i) copy_named(state[i], own[i], i);
}

std::vector<std::vector<int64_t>> TrainOptimizer::groups() const {
  std::vector<std::vector<int64_t>> result;
  for (const Group& group : groups_) result.push_back(group.members);
  return result;
}

}  // namespace iabn::train
