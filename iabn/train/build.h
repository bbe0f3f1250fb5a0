#pragma once

// From a configuration to a network and its optimiser.

#include <memory>
#include <vector>

#include <c10/core/Device.h>
#include <torch/optim/optimizer.h>

#include "iabn/models/network.h"
#include "iabn/train/config.h"

namespace iabn::train {

/// Seeds LibTorch's generators with config.seed, builds the network, draws its weights on the CPU (so that they do not
/// depend on the device) and moves it.
std::shared_ptr<models::Network> build_network(const Config& config, c10::Device device);

/// The optimiser with its initial rates: parameters whose name contains "fc" have their own.
class TrainOptimizer {
 public:
  TrainOptimizer(const OptimizerConfig& config, const models::Network& network);

  /// Sets every rate to its initial value times `factor`.
  void scale_learning_rates(double factor);
  /// The current rate of the parameters outside the classifier.
  double learning_rate() const;
  /// Clips the gradients' common norm where the configuration says so, then takes a step.
  void step();
  void zero_grad() { impl_->zero_grad(); }

  torch::optim::Optimizer& impl() { return *impl_; }

 private:
  double clip_;
  std::vector<torch::Tensor> parameters_;
  std::vector<double> initial_rates_;  // per group
  std::unique_ptr<torch::optim::Optimizer> impl_;
};

}  // namespace iabn::train
