#pragma once

// SGD and Adam on PyTorch's fused operators: one launch for many tensors, no host synchronisation, capturable.

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>

#include "iabn/train/config.h"

namespace torch::nn {
class Module;
}

namespace iabn::train {

class LossScaler;

/// The update rules are PyTorch's: weight decay is added to the gradient (all parameters), SGD's momentum has no
/// dampening, Adam has betas 0.9 and 0.999 and eps 1e-8. Parameters whose name contains "fc", or begins with
/// "head." or "cls." (segmentation), form a group with a rate of their own. A parameter without gradient is left alone.
class TrainOptimizer {
 public:
  /// The parameters of `network` that require gradients; they must be on their device already.
  TrainOptimizer(const OptimizerConfig& config, const torch::nn::Module& network);

  /// Sets every rate to its initial value times `factor`.
  void scale_learning_rates(double factor);
  /// The current rate of a group of groups().
  double learning_rate(size_t group = 0) const { return groups_.at(group).rate; }

  /// Clips the gradients' common norm where the configuration says so, then takes a step. With a scaler the gradients
  /// are unscaled first, and where one of them is not finite the parameters stay as they are and the scale falls.
  void step(LossScaler* scaler = nullptr);
  void zero_grad();

  /// What a resumed run needs, in PyTorch's terms: per parameter (index in parameters()) its tensors by name:
  /// momentum_buffer (SGD), or exp_avg, exp_avg_sq, step (Adam).
  using NamedTensors = std::vector<std::pair<std::string, at::Tensor>>;
  std::vector<NamedTensors> state() const;
  /// Copies in; throws std::invalid_argument where names or shapes differ.
  void load_state(const std::vector<NamedTensors>& state);

  /// In the order of state().
  const std::vector<at::Tensor>& parameters() const { return parameters_; }
  /// Indices of the parameters of each group: those outside the classifier, then the classifier's; none is empty.
  std::vector<std::vector<int64_t>> groups() const;

 private:
  struct Group {
    std::vector<int64_t> members;  // of parameters_
    double initial_rate = 0, rate = 0;
    at::Tensor device_rate;  // float32 [], on a GPU; a captured step reads the rate from it
  };
  void clip(const std::vector<at::Tensor>& gradients) const;
  void step_group(const Group& group, const std::optional<at::Tensor>& found_inf);

  OptimizerConfig config_;
  std::vector<at::Tensor> parameters_;
  std::vector<at::Tensor> first_, second_;  // momentum_buffer or exp_avg; exp_avg_sq
  std::vector<at::Tensor> steps_;           // of Adam: float32 []
  std::vector<Group> groups_;
};

}  // namespace iabn::train
