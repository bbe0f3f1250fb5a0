#include "iabn/nn/convert.h"

#include <torch/types.h>
#include <torch/utils.h>

namespace iabn::nn {

namespace {

using torch::Tensor;

/// Rms error of a value stored in the dtype, relative to the value: the measured 1.66e-3 of bfloat16 (8 significant
/// bits), scaled by the number of significant bits.
double storage_error(torch::Dtype dtype) {
  switch (dtype) {
    case torch::kBFloat16:
      return 1.66e-3;
    case torch::kHalf:
      return 1.66e-3 * 0x1p-3;
    case torch::kFloat:
      return 1.66e-3 * 0x1p-16;
    case torch::kDouble:
      return 1.66e-3 * 0x1p-45;
    default:
      TORCH_CHECK_VALUE(false, "activation dtype must be float32, float64, float16 or bfloat16, got ", dtype);
  }
}

Tensor find(const torch::nn::Module& module, const std::string& name) {
  for (const auto& item : module.named_parameters(/*recurse=*/false)) {
    if (item.key() == name) return item.value();
  }
  for (const auto& item : module.named_buffers(/*recurse=*/false)) {
    if (item.key() == name) return item.value();
  }
  return {};
}

}  // namespace

int64_t unsafe_channels(const NormActImpl& layer, torch::Dtype dtype) {
  if (!layer.weight.defined()) return 0;
  torch::NoGradGuard no_grad;
  Tensor gamma = layer.weight.to(torch::kDouble);
  if (layer.options.gamma() == GammaMode::kLegacy) gamma = gamma.abs() + layer.options.eps();
  const Tensor beta = layer.bias.to(torch::kDouble);
  // Mean square of y = gamma*x_hat + beta over that of gamma*x_hat.
  const Tensor error = (1 + (beta / gamma).square()).sqrt() * storage_error(dtype);
  return (gamma.eq(0) | error.gt(0.1)).sum().item<int64_t>();
}

ABNOptions abn_options(const torch::nn::BatchNormOptions& options, const std::string& activation,
                       double activation_param) {
  return ABNOptions(options.num_features())
      .eps(options.eps())
      .momentum(options.momentum())
      .affine(options.affine())
      .track_running_stats(options.track_running_stats())
      .activation(activation)
      .activation_param(activation_param);
}

void copy_norm(const torch::nn::Module& from, torch::nn::Module& to, GammaMode from_gamma, double from_eps) {
  torch::NoGradGuard no_grad;
  for (const char* name : {"weight", "bias", "running_mean", "running_var", "num_batches_tracked"}) {
    Tensor target = find(to, name);
    const Tensor source = find(from, name);
    TORCH_CHECK_VALUE(target.defined() == source.defined(), "copy_norm: only one of the two layers has ", name,
                      ": create both with the same affine and track_running_stats");
    if (!target.defined()) continue;
    TORCH_CHECK_VALUE(target.sizes() == source.sizes(), "copy_norm: ", name, " must have shape ", target.sizes(),
                      ", got ", source.sizes(), ": create both layers with the same num_features");
    const bool legacy = from_gamma == GammaMode::kLegacy && std::string(name) == "weight";
    target.set_data(legacy ? source.abs() + from_eps : source.clone());
    target.set_requires_grad(source.requires_grad());
  }
  to.train(from.is_training());
}

Conversion to_inplace_abn_impl(const ABNOptions& options, const torch::nn::Module& batch_norm,
                               torch::Dtype activation_dtype) {
  Conversion result;
  const ActivationSpec spec = parse_activation(options.activation(), options.activation_param());
  const bool has_param = spec.kind == Activation::kLeakyReLU || spec.kind == Activation::kELU;
  if (spec.kind == Activation::kReLU || (has_param && !(spec.param > 0))) {
    result.reason = options.activation() + " with this parameter cannot be inverted: kept as BatchNorm + activation";
  } else {
    result.layer = std::make_shared<InPlaceABNImpl>(options);
    copy_norm(batch_norm, *result.layer);
    const int64_t unsafe = unsafe_channels(*result.layer, activation_dtype);
    if (unsafe == 0) return result;
    result.reason = std::to_string(unsafe) + " of " + std::to_string(options.num_features()) +
                    " channels have a gamma too small to recover the input from the stored output: kept as BatchNorm + "
                    "activation";
  }
  result.in_place = false;
  result.layer = std::make_shared<ABNImpl>(options);
  copy_norm(batch_norm, *result.layer);
  return result;
}

}  // namespace iabn::nn
