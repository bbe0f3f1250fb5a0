#pragma once

// An exponential moving average of a network's weights.

#include <exception>
#include <string>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>

namespace torch::nn {
class Module;
}

namespace iabn::train {

/// average += (1 - decay) * (weight - average) for parameters and floating-point buffers; integers are copied. Begins
/// as a copy of the weights.
class AveragedWeights {
 public:
  AveragedWeights(const torch::nn::Module& network, double decay);

  /// After each step of the optimiser; capturable.
  void update();
  /// The averages begin again as copies of the weights.
  void reset();
  /// Exchanges the network's weights and the averages, in place: once to evaluate with the averages, once to go on.
  void swap();

  /// The averages by the names of the network's parameters and buffers.
  const std::vector<std::pair<std::string, at::Tensor>>& named() const { return averages_; }

 private:
  double decay_;
  std::vector<at::Tensor> weights_;
  std::vector<std::pair<std::string, at::Tensor>> averages_;
  at::Tensor scratch_;  // bytes of the largest of them: an exchange must not fail half-way for want of memory
};

/// While one lives, the network computes with its averaged weights; nullptr: with its own.
class UseAverages {
 public:
  explicit UseAverages(AveragedWeights* averages) : averages_(averages) {
    if (averages_ != nullptr) averages_->swap();
  }
  /// Where the device has failed, the error that is on its way says so.
  ~UseAverages() {
    if (averages_ == nullptr) return;
    try {
      averages_->swap();
    } catch (const std::exception&) {
    }
  }
  UseAverages(const UseAverages&) = delete;
  UseAverages& operator=(const UseAverages&) = delete;

 private:
  AveragedWeights* averages_;
};

}  // namespace iabn::train
