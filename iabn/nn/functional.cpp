#include "iabn/nn/functional.h"

#include <ATen/core/LegacyTypeDispatch.h>
#include <torch/csrc/autograd/custom_function.h>

#include "iabn/nn/ops.h"
#include "iabn/nn/overwrite.h"

namespace iabn::nn {

namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

/// Running statistics: tensors, but no inputs of the autograd node.
struct Running {
  const Tensor &mean, &var, &num_batches_tracked;
};

/// Backward keeps z (x's storage, marked dirty, so that PyTorch's version counter catches misuse), var, weight, bias.
class InPlaceABNFunction : public torch::autograd::Function<InPlaceABNFunction> {
 public:
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const std::optional<Tensor>& weight,
                        const std::optional<Tensor>& bias, const Running& running,
                        const InPlaceABNFuncOptions& options) {
    at::AutoDispatchBelowADInplaceOrView guard;
    const auto activation = static_cast<int64_t>(options.activation.kind);
    const auto gamma = static_cast<int64_t>(options.gamma);
    Tensor var;
    if (options.training) {
      std::tie(std::ignore, var) = ops::abn_forward_(x, weight, bias, optional(running.mean), optional(running.var),
                                                     optional(running.num_batches_tracked), options.momentum,
                                                     options.eps, activation, options.activation.param, gamma);
    } else {
      ops::abn_apply_(x, running.mean, running.var, weight, bias, options.eps, activation, options.activation.param,
                      gamma);
      // A copy: a training pass before backward would change the running variance under our feet.
      var = running.var.clone();
    }
    ctx->mark_dirty({x});
    ctx->save_for_backward({saved_output(x), var, weight.value_or(Tensor()), bias.value_or(Tensor())});
    ctx->saved_data["training"] = options.training;
    ctx->saved_data["eps"] = options.eps;
    ctx->saved_data["activation"] = activation;
    ctx->saved_data["activation_param"] = options.activation.param;
    ctx->saved_data["gamma"] = gamma;
    return x;
  }

  static variable_list backward(AutogradContext* ctx, variable_list d_outputs) {
    TORCH_CHECK(!at::GradMode::is_enabled(), kNoDoubleBackward);
    const variable_list saved = ctx->get_saved_variables();
    const Tensor &z = saved[0], &var = saved[1], &weight = saved[2], &bias = saved[3];
    // Edges are numbered over the defined inputs only.
    const bool needs_d_weight = weight.defined() && ctx->needs_input_grad(1);
    const bool needs_d_bias = bias.defined() && ctx->needs_input_grad(weight.defined() ? 2 : 1);
    at::AutoDispatchBelowADInplaceOrView guard;
    auto [d_x, d_weight, d_bias] =
        ops::abn_backward(z, d_outputs[0], var, optional(weight), optional(bias), ctx->saved_data["training"].toBool(),
                          ctx->saved_data["eps"].toDouble(), ctx->saved_data["activation"].toInt(),
                          ctx->saved_data["activation_param"].toDouble(), ctx->saved_data["gamma"].toInt(),
                          ctx->needs_input_grad(0), needs_d_weight || needs_d_bias);
    variable_list gradients(5);  // one for each argument of forward
    if (ctx->needs_input_grad(0)) gradients[0] = d_x;
    if (needs_d_weight) gradients[1] = d_weight.to(weight.scalar_type());
    if (needs_d_bias) gradients[2] = d_bias.to(bias.scalar_type());
    return gradients;
  }
};

/// Frozen statistics need no inverse for relu (or slope 0): d_y vanishes wherever z says nothing about y. Any other
/// activation that is not invertible would give wrong gradients.
void check_frozen_gradients(const ActivationSpec& spec) {
  const bool elu = spec.kind == Activation::kELU;
  if (elu ? spec.param > 0 : (spec.kind != Activation::kLeakyReLU || spec.param >= 0)) return;
  TORCH_CHECK(false,
              "inplace_abn: ", elu ? "alpha of elu must be above 0" : "the slope of leaky_relu must not be below 0",
              " where gradients are wanted, got ", spec.param, ": run under torch::NoGradGuard, or use ABN");
}

}  // namespace

ActivationSpec parse_activation(const std::string& name, double param) {
  if (name == "leaky_relu") return {Activation::kLeakyReLU, param};
  if (name == "elu") return {Activation::kELU, param};
  if (name == "identity" || name == "none") return {Activation::kIdentity, param};
  if (name == "relu") return {Activation::kReLU, param};
  TORCH_CHECK_VALUE(false, "activation must be \"leaky_relu\", \"elu\", \"identity\" or \"relu\", got \"", name, "\"");
}

std::string activation_name(Activation activation) {
  switch (activation) {
    case Activation::kLeakyReLU:
      return "leaky_relu";
    case Activation::kELU:
      return "elu";
    case Activation::kReLU:
      return "relu";
    case Activation::kIdentity:
      break;
  }
  return "identity";
}

Tensor inplace_abn(Tensor x, const Tensor& weight, const Tensor& bias, const Tensor& running_mean,
                   const Tensor& running_var, const Tensor& num_batches_tracked, const InPlaceABNFuncOptions& options) {
  TORCH_CHECK(x.defined(), "inplace_abn: x is undefined: pass a tensor of shape [N, C, ...]");
  const bool gradients = wants_gradients(x, weight, bias);
  check_overwrite(x, gradients);
  if (!options.training) {
    TORCH_CHECK(running_mean.defined() && running_var.defined(),
                "inplace_abn: evaluation (training = false) needs running_mean and running_var");
    if (gradients) check_frozen_gradients(options.activation);
  }
  return InPlaceABNFunction::apply(x, optional(weight), optional(bias),
                                   Running{running_mean, running_var, num_batches_tracked}, options);
}

}  // namespace iabn::nn
