#pragma once

// In-Place Activated BatchNorm as a function with autograd. Formulas: docs/design/1-maths.md.

#include <optional>
#include <string>

#include <ATen/core/Tensor.h>

#include "iabn/activation.h"
#include "iabn/kernels/kernels.h"

namespace iabn::nn {

/// How `weight` gives gamma: kSigned (gamma = weight, BatchNorm's) or kLegacy (|weight| + eps, the original package's).
using GammaMode = kernels::GammaMode;

/// "leaky_relu", "elu", "identity" (also "none") or "relu"; anything else throws c10::ValueError that lists these.
ActivationSpec parse_activation(const std::string& name, double param);
std::string activation_name(Activation activation);

struct InPlaceABNFuncOptions {
  bool training = true;                  // batch statistics; false: running statistics, frozen
  std::optional<double> momentum = 0.1;  // nullopt: cumulative average (needs num_batches_tracked)
  double eps = 1e-5;
  ActivationSpec activation;
  GammaMode gamma = GammaMode::kSigned;
};

/// z = act(gamma * (x - mean)/sqrt(var + eps) + beta), written over x; returns x. x is dead for everyone else.
///
/// x: [N, C, ...] with any number of trailing dimensions; float32, float64, float16, bfloat16; CPU or CUDA; contiguous
///    and channels-last at full speed, any other layout through a copy. It must be writable and not overlap itself.
/// weight, bias: [C] or undefined; float32 (float64 for float64 x) or x's dtype.
/// running_mean, running_var: [C] or undefined; updated in training, used otherwise. num_batches_tracked: int64 [] or
///    undefined; incremented in training.
/// Training needs an activation that can be inverted (slope > 0, alpha > 0, not relu) and more than one value per
/// channel. Backward keeps z (x's storage), var, weight and bias; it allocates nothing of activation size but d_x, and
/// does not support double backward. With training = false the running statistics count as constants.
/// Throws c10::Error that names the argument, what was expected, what came, and what to do.
at::Tensor inplace_abn(at::Tensor x, const at::Tensor& weight, const at::Tensor& bias, const at::Tensor& running_mean,
                       const at::Tensor& running_var, const at::Tensor& num_batches_tracked,
                       const InPlaceABNFuncOptions& options = {});

}  // namespace iabn::nn
