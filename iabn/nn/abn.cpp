#include "iabn/nn/abn.h"

#include <torch/types.h>
#include <torch/utils.h>

#include <ostream>

#include "iabn/nn/sync.h"

namespace iabn::nn {

namespace {

using torch::Tensor;

}  // namespace

void NormActImpl::keep_counter_integer() {
  if (!num_batches_tracked.defined() || num_batches_tracked.scalar_type() == torch::kLong) return;
  num_batches_tracked.set_data(num_batches_tracked.to(torch::kLong));
}

NormActImpl::NormActImpl(ABNOptions options_) : options(std::move(options_)) {
  TORCH_CHECK_VALUE(options.num_features() > 0, "num_features must be positive, got ", options.num_features());
  TORCH_CHECK_VALUE(!options.momentum() || (*options.momentum() >= 0 && *options.momentum() <= 1),
                    "momentum must be between 0 and 1, or nullopt for a cumulative average, got ",
                    options.momentum().value_or(0));
  parse_activation(options.activation(), options.activation_param());
  const std::vector<int64_t> shape{options.num_features()};
  const auto parameter = [&](const char* name) {
    return register_parameter(name, options.affine() ? torch::empty(shape) : Tensor(), options.affine());
  };
  weight = parameter("weight");
  bias = parameter("bias");
  if (options.track_running_stats()) {
    running_mean = register_buffer("running_mean", torch::empty(shape));
    running_var = register_buffer("running_var", torch::empty(shape));
    num_batches_tracked = register_buffer("num_batches_tracked", torch::empty({}, torch::dtype(torch::kLong)));
  }
  reset_parameters();
}

void NormActImpl::reset_parameters() {
  torch::NoGradGuard no_grad;
  if (weight.defined()) weight.fill_(1);
  if (bias.defined()) bias.fill_(0);
  if (running_mean.defined()) {
    running_mean.fill_(0);
    running_var.fill_(1);
    num_batches_tracked.fill_(0);
  }
}

std::shared_ptr<torch::nn::Module> NormActImpl::clone(const std::optional<torch::Device>& device) const {
  torch::NoGradGuard no_grad;
  auto copy = make(options);
  const auto copy_of = [&](const Tensor& from) {
    return from.defined() ? (device ? from.to(*device, /*non_blocking=*/false, /*copy=*/true) : from.clone())
                          : Tensor();
  };
  const auto assign = [&](Tensor& to, const Tensor& from) {
    if (!from.defined()) return;
    to.set_data(copy_of(from));
    to.set_requires_grad(from.requires_grad());
  };
  assign(copy->weight, weight);
  assign(copy->bias, bias);
  assign(copy->running_mean, running_mean);
  assign(copy->running_var, running_var);
  assign(copy->num_batches_tracked, num_batches_tracked);
  copy->train(is_training());
  return copy;
}

void NormActImpl::pretty_print(std::ostream& stream) const {
  stream << std::boolalpha << class_name() << "(" << options.num_features() << ", eps=" << options.eps()
         << ", momentum=";
  if (options.momentum()) {
    stream << *options.momentum();
  } else {
    stream << "None";
  }
  stream << ", affine=" << options.affine() << ", track_running_stats=" << options.track_running_stats()
         << ", activation=" << options.activation();
  if (options.activation() == "leaky_relu" || options.activation() == "elu") {
    stream << "[" << options.activation_param() << "]";
  }
  if (options.gamma() == GammaMode::kLegacy) stream << ", gamma=legacy";
  stream << ")";
}

ABNImpl::ABNImpl(ABNOptions options_) : NormActImpl(std::move(options_)) {
  TORCH_CHECK_VALUE(options.gamma() == GammaMode::kSigned,
                    "ABN is BatchNorm and has its signed gamma; legacy gamma is for InPlaceABN only");
}

Tensor ABNImpl::forward(Tensor x) {
  const bool batch_statistics = uses_batch_statistics();
  TORCH_CHECK(x.dim() >= 2, "ABN: x must have shape [N, C, ...] with at least 2 dimensions, got ", x.sizes());
  TORCH_CHECK(!batch_statistics || x.numel() > x.size(1),
              "ABN: training needs more than 1 value per channel (x has shape ", x.sizes(),
              "): use a larger batch, or evaluation mode");
  double factor = options.momentum().value_or(0.0);
  if (is_training() && running_mean.defined()) {
    keep_counter_integer();
    num_batches_tracked.add_(1);
    // A cumulative average has to know the count on the host, as in torch::nn::BatchNorm.
    if (!options.momentum()) factor = 1.0 / num_batches_tracked.item<double>();
  }
  Tensor y = at::batch_norm(x, weight, bias, running_mean, running_var, batch_statistics, factor, options.eps(),
                            at::globalContext().userEnabledCuDNN());
  const ActivationSpec spec = parse_activation(options.activation(), options.activation_param());
  switch (spec.kind) {  // in place: BatchNorm's backward does not need y
    case Activation::kLeakyReLU:
      return at::leaky_relu_(y, spec.param);
    case Activation::kELU:
      return at::elu_(y, spec.param);
    case Activation::kReLU:
      return at::relu_(y);
    case Activation::kIdentity:
      break;
  }
  return y;
}

std::shared_ptr<NormActImpl> ABNImpl::make(const ABNOptions& options_) const {
  return std::make_shared<ABNImpl>(options_);
}

InPlaceABNImpl::InPlaceABNImpl(ABNOptions options_) : NormActImpl(std::move(options_)) {}

Tensor InPlaceABNImpl::forward(Tensor x) {
  keep_counter_integer();
  const InPlaceABNFuncOptions function{uses_batch_statistics(), options.momentum(), options.eps(),
                                       parse_activation(options.activation(), options.activation_param()),
                                       options.gamma()};
  return inplace_abn(std::move(x), weight, bias, running_mean, running_var, num_batches_tracked, function);
}

std::shared_ptr<NormActImpl> InPlaceABNImpl::make(const ABNOptions& options_) const {
  return std::make_shared<InPlaceABNImpl>(options_);
}

std::shared_ptr<NormActImpl> make_norm_act(const std::string& mode, const ABNOptions& options) {
  if (mode == "standard") return std::make_shared<ABNImpl>(options);
  if (mode == "inplace") return std::make_shared<InPlaceABNImpl>(options);
  if (mode == "sync") return std::make_shared<InPlaceABNSyncImpl>(options);
  TORCH_CHECK_VALUE(false, "norm mode must be \"standard\", \"inplace\" or \"sync\", got \"", mode, "\"");
}

}  // namespace iabn::nn
