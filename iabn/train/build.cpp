#include "iabn/train/build.h"

#include <ATen/Context.h>
#include <torch/nn/utils/clip_grad.h>
#include <torch/optim/adam.h>
#include <torch/optim/sgd.h>

#include "iabn/models/registry.h"
#include "iabn/models/weight_init.h"

namespace iabn::train {

std::shared_ptr<models::Network> build_network(const Config& config, c10::Device device) {
  at::manual_seed(static_cast<uint64_t>(config.seed));
  const NetworkConfig& network_config = config.network;
  models::NetworkOptions options;
  options.norm_mode = network_config.bn_mode;
  options.activation = network_config.activation;
  options.activation_param = network_config.activation_param;
  options.gamma = network_config.gamma == "legacy" ? nn::GammaMode::kLegacy : nn::GammaMode::kSigned;
  options.classes = network_config.classes;
  options.input_channels = config.input.channels;
  options.width = network_config.width;
  const bool wider = models::is_wider(network_config.arch);  // see check_architecture_options in config.cpp
  options.input_3x3 = network_config.input_3x3 && !wider;
  if (!wider || std::holds_alternative<bool>(network_config.dilation)) options.dilation = network_config.dilation;
  auto network = models::make_network(network_config.arch, options);
  models::init_weights(*network, {.method = network_config.weight_init,
                                  .gain_multiplier = network_config.weight_gain_multiplier,
                                  .activation = network_config.activation,
                                  .activation_param = network_config.activation_param});
  network->to(device);
  if (config.channels_last) {
    const torch::NoGradGuard no_grad;
    for (torch::Tensor& parameter : network->parameters()) {
      if (parameter.dim() == 4) parameter.set_data(parameter.contiguous(at::MemoryFormat::ChannelsLast));
    }
  }
  return network;
}

TrainOptimizer::TrainOptimizer(const OptimizerConfig& config, const models::Network& network) : clip_(config.clip) {
  std::vector<torch::Tensor> body, classifier;
  for (const auto& item : network.named_parameters()) {
    (item.key().find("fc") == std::string::npos ? body : classifier).push_back(item.value());
    parameters_.push_back(item.value());
  }
  const double classifier_rate = config.classifier_lr < 0 ? config.learning_rate : config.classifier_lr;
  std::vector<torch::optim::OptimizerParamGroup> groups;
  const auto add_group = [&](const std::vector<torch::Tensor>& parameters, double rate) {
    if (parameters.empty()) return;
    std::unique_ptr<torch::optim::OptimizerOptions> options;
    if (config.type == "SGD") {
      options = std::make_unique<torch::optim::SGDOptions>(torch::optim::SGDOptions(rate)
                                                               .momentum(config.momentum)
                                                               .weight_decay(config.weight_decay)
                                                               .nesterov(config.nesterov && config.momentum > 0));
    } else {
      options = std::make_unique<torch::optim::AdamOptions>(
          torch::optim::AdamOptions(rate).weight_decay(config.weight_decay));
    }
    groups.emplace_back(parameters, std::move(options));
    initial_rates_.push_back(rate);
  };
  add_group(body, config.learning_rate);
  add_group(classifier, classifier_rate);
  if (config.type == "SGD") {
    impl_ = std::make_unique<torch::optim::SGD>(groups, torch::optim::SGDOptions(config.learning_rate));
  } else {
    impl_ = std::make_unique<torch::optim::Adam>(groups, torch::optim::AdamOptions(config.learning_rate));
  }
}

void TrainOptimizer::scale_learning_rates(double factor) {
  auto& groups = impl_->param_groups();
  for (size_t i = 0; i < groups.size(); ++i) groups[i].options().set_lr(initial_rates_[i] * factor);
}

double TrainOptimizer::learning_rate() const { return impl_->param_groups().front().options().get_lr(); }

void TrainOptimizer::step() {
  if (clip_ > 0) torch::nn::utils::clip_grad_norm_(parameters_, clip_);
  impl_->step();
}

}  // namespace iabn::train
