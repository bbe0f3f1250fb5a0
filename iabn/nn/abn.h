#pragma once

// Modules: ABN (BatchNorm, then activation; not in place) and InPlaceABN (writes its output over its input).

#include <memory>
#include <optional>
#include <string>

#include <torch/nn/module.h>
#include <torch/nn/pimpl.h>

#include "iabn/nn/functional.h"

namespace iabn::nn {

struct ABNOptions {
  ABNOptions(int64_t num_features) : num_features_(num_features) {}  // NOLINT: implicit, as in torch::nn

  TORCH_ARG(int64_t, num_features);
  TORCH_ARG(double, eps) = 1e-5;
  /// nullopt: cumulative average of all batches.
  TORCH_ARG(std::optional<double>, momentum) = 0.1;
  TORCH_ARG(bool, affine) = true;
  TORCH_ARG(bool, track_running_stats) = true;
  /// "leaky_relu", "elu", "identity"; "relu" in ABN, and in InPlaceABN for evaluation only.
  TORCH_ARG(std::string, activation) = "leaky_relu";
  /// Slope of leaky_relu, alpha of elu (torch::nn::ELU has 1 by default).
  TORCH_ARG(double, activation_param) = 0.01;
  /// See GammaMode; kLegacy is for InPlaceABN only.
  TORCH_ARG(GammaMode, gamma) = GammaMode::kSigned;
};

/// What both modules share: options, parameters and buffers with BatchNorm's names and initial values.
/// weight, bias [C] (undefined where affine is off); running_mean, running_var [C], num_batches_tracked [] int64
/// (undefined where track_running_stats is off).
class NormActImpl : public torch::nn::Module {
 public:
  explicit NormActImpl(ABNOptions options);

  /// x: [N, C, ...]. Uses batch statistics when training or when no running statistics are tracked.
  virtual torch::Tensor forward(torch::Tensor x) = 0;
  /// weight 1, bias 0, running_mean 0, running_var 1, num_batches_tracked 0.
  void reset_parameters();
  std::shared_ptr<torch::nn::Module> clone(const std::optional<torch::Device>& device = std::nullopt) const override;
  void pretty_print(std::ostream& stream) const override;

  ABNOptions options;
  torch::Tensor weight, bias, running_mean, running_var, num_batches_tracked;

 protected:
  virtual std::shared_ptr<NormActImpl> make(const ABNOptions& options) const = 0;
  virtual const char* class_name() const = 0;
  /// Of one forward pass, following torch::nn::BatchNorm: without running statistics evaluation uses the batch's.
  bool uses_batch_statistics() const { return is_training() || !running_mean.defined(); }
  /// Module::to(dtype) of the C++ API also casts integer buffers; a counter stays one.
  void keep_counter_integer();
};

/// BatchNorm followed by the activation, out of place: x stays usable and backward keeps x and z.
class ABNImpl : public NormActImpl {
 public:
  explicit ABNImpl(ABNOptions options);
  torch::Tensor forward(torch::Tensor x) override;

 protected:
  std::shared_ptr<NormActImpl> make(const ABNOptions& options) const override;
  const char* class_name() const override { return "iabn::nn::ABN"; }
};
TORCH_MODULE(ABN);

/// In-Place Activated BatchNorm: forward overwrites x with z (see inplace_abn) and backward keeps z alone.
class InPlaceABNImpl : public NormActImpl {
 public:
  explicit InPlaceABNImpl(ABNOptions options);
  torch::Tensor forward(torch::Tensor x) override;

 protected:
  std::shared_ptr<NormActImpl> make(const ABNOptions& options) const override;
  const char* class_name() const override { return "iabn::nn::InPlaceABN"; }
};
TORCH_MODULE(InPlaceABN);

/// The layer of a network's norm mode: "standard" (ABN), "inplace" (InPlaceABN) or "sync" (InPlaceABNSync, sync.h).
std::shared_ptr<NormActImpl> make_norm_act(const std::string& mode, const ABNOptions& options);

}  // namespace iabn::nn
