#pragma once

// Typed handles of the operators in torch.ops.iabn, the one place of the C++ front end that knows their signatures.
// Handles are not checked against the schemas at run time beyond their types: keep them equal to ops/schemas.cpp.

#include <optional>
#include <tuple>

#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>

namespace iabn::nn::ops {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

template <class Signature>
c10::TypedOperatorHandle<Signature> find(const char* name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<Signature>();
}

inline std::tuple<Tensor, Tensor> abn_forward_(const Tensor& x, const OptionalTensor& weight,
                                               const OptionalTensor& bias, const OptionalTensor& running_mean,
                                               const OptionalTensor& running_var,
                                               const OptionalTensor& num_batches_tracked,
                                               std::optional<double> momentum, double eps, int64_t activation,
                                               double activation_param, int64_t gamma) {
  using Signature = std::tuple<Tensor, Tensor>(const Tensor&, const OptionalTensor&, const OptionalTensor&,
                                               const OptionalTensor&, const OptionalTensor&, const OptionalTensor&,
                                               std::optional<double>, double, int64_t, double, int64_t);
  static const auto handle = find<Signature>("iabn::abn_forward_");
  return handle.call(x, weight, bias, running_mean, running_var, num_batches_tracked, momentum, eps, activation,
                     activation_param, gamma);
}

inline void abn_apply_(const Tensor& x, const Tensor& mean, const Tensor& var, const OptionalTensor& weight,
                       const OptionalTensor& bias, double eps, int64_t activation, double activation_param,
                       int64_t gamma) {
  using Signature = void(const Tensor&, const Tensor&, const Tensor&, const OptionalTensor&, const OptionalTensor&,
                         double, int64_t, double, int64_t);
  static const auto handle = find<Signature>("iabn::abn_apply_");
  handle.call(x, mean, var, weight, bias, eps, activation, activation_param, gamma);
}

inline std::tuple<Tensor, Tensor, Tensor> abn_backward(const Tensor& z, const Tensor& d_z, const Tensor& var,
                                                       const OptionalTensor& weight, const OptionalTensor& bias,
                                                       bool training, double eps, int64_t activation,
                                                       double activation_param, int64_t gamma, bool needs_d_x,
                                                       bool needs_d_parameters) {
  using Signature =
      std::tuple<Tensor, Tensor, Tensor>(const Tensor&, const Tensor&, const Tensor&, const OptionalTensor&,
                                         const OptionalTensor&, bool, double, int64_t, double, int64_t, bool, bool);
  static const auto handle = find<Signature>("iabn::abn_backward");
  return handle.call(z, d_z, var, weight, bias, training, eps, activation, activation_param, gamma, needs_d_x,
                     needs_d_parameters);
}

}  // namespace iabn::nn::ops
