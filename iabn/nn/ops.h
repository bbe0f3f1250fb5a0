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

/// [3, C]: count, mean, M2.
inline Tensor abn_statistics(const Tensor& x) {
  static const auto handle = find<Tensor(const Tensor&)>("iabn::abn_statistics");
  return handle.call(x);
}

/// gathered: [3*W, C]. Returns mean, var [C] and count [].
inline std::tuple<Tensor, Tensor, Tensor> abn_merge(const Tensor& gathered, const OptionalTensor& running_mean,
                                                    const OptionalTensor& running_var,
                                                    const OptionalTensor& num_batches_tracked,
                                                    std::optional<double> momentum) {
  using Signature = std::tuple<Tensor, Tensor, Tensor>(const Tensor&, const OptionalTensor&, const OptionalTensor&,
                                                       const OptionalTensor&, std::optional<double>);
  static const auto handle = find<Signature>("iabn::abn_merge");
  return handle.call(gathered, running_mean, running_var, num_batches_tracked, momentum);
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

/// [4, C]: A0, A1, B1, B2.
inline Tensor abn_backward_reduce(const Tensor& z, const Tensor& d_z, const OptionalTensor& bias, int64_t activation,
                                  double activation_param) {
  static const auto handle =
      find<Tensor(const Tensor&, const Tensor&, const OptionalTensor&, int64_t, double)>("iabn::abn_backward_reduce");
  return handle.call(z, d_z, bias, activation, activation_param);
}

inline Tensor abn_backward_apply(const Tensor& z, const Tensor& d_z, const Tensor& sums, const Tensor& count,
                                 const Tensor& var, const OptionalTensor& weight, const OptionalTensor& bias,
                                 double eps, int64_t activation, double activation_param, int64_t gamma) {
  using Signature = Tensor(const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                           const OptionalTensor&, const OptionalTensor&, double, int64_t, double, int64_t);
  static const auto handle = find<Signature>("iabn::abn_backward_apply");
  return handle.call(z, d_z, sums, count, var, weight, bias, eps, activation, activation_param, gamma);
}

inline std::tuple<Tensor, Tensor> abn_backward_parameters(const Tensor& local_sums, const Tensor& sums,
                                                          const Tensor& count, const OptionalTensor& weight, double eps,
                                                          int64_t gamma) {
  using Signature =
      std::tuple<Tensor, Tensor>(const Tensor&, const Tensor&, const Tensor&, const OptionalTensor&, double, int64_t);
  static const auto handle = find<Signature>("iabn::abn_backward_parameters");
  return handle.call(local_sums, sums, count, weight, eps, gamma);
}

/// Returns mean, var [C] and count []. peers: see ops/schemas.cpp.
inline std::tuple<Tensor, Tensor, Tensor> abn_peer_forward_(
    const Tensor& x, const OptionalTensor& weight, const OptionalTensor& bias, const OptionalTensor& running_mean,
    const OptionalTensor& running_var, const OptionalTensor& num_batches_tracked, std::optional<double> momentum,
    double eps, int64_t activation, double activation_param, int64_t gamma, at::IntArrayRef peers) {
  using Signature = std::tuple<Tensor, Tensor, Tensor>(
      const Tensor&, const OptionalTensor&, const OptionalTensor&, const OptionalTensor&, const OptionalTensor&,
      const OptionalTensor&, std::optional<double>, double, int64_t, double, int64_t, at::IntArrayRef);
  static const auto handle = find<Signature>("iabn::abn_peer_forward_");
  return handle.call(x, weight, bias, running_mean, running_var, num_batches_tracked, momentum, eps, activation,
                     activation_param, gamma, peers);
}

inline std::tuple<Tensor, Tensor, Tensor> abn_peer_backward(const Tensor& z, const Tensor& d_z, const Tensor& count,
                                                            const Tensor& var, const OptionalTensor& weight,
                                                            const OptionalTensor& bias, double eps, int64_t activation,
                                                            double activation_param, int64_t gamma, bool needs_d_x,
                                                            bool needs_d_parameters, at::IntArrayRef peers) {
  using Signature = std::tuple<Tensor, Tensor, Tensor>(const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                                                       const OptionalTensor&, const OptionalTensor&, double, int64_t,
                                                       double, int64_t, bool, bool, at::IntArrayRef);
  static const auto handle = find<Signature>("iabn::abn_peer_backward");
  return handle.call(z, d_z, count, var, weight, bias, eps, activation, activation_param, gamma, needs_d_x,
                     needs_d_parameters, peers);
}

inline int64_t peer_area(const Tensor& card, int64_t device, int64_t channels, int64_t processes) {
  static const auto handle = find<int64_t(const Tensor&, int64_t, int64_t, int64_t)>("iabn::peer_area");
  return handle.call(card, device, channels, processes);
}

inline int64_t peer_open(const Tensor& card, int64_t device) {
  static const auto handle = find<int64_t(const Tensor&, int64_t)>("iabn::peer_open");
  return handle.call(card, device);
}

}  // namespace iabn::nn::ops
