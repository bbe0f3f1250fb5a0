#pragma once

// The front of every operator, the same for all devices: check, allocate, dispatch on the dtype, call the kernels.
//
// Backend is a struct with static functions named as in kernels/{cpu,cuda}/kernels.h, each taking a Backend::Context
// (built from x: device guard, stream, thread pool, workspace) in place of the device-specific last arguments.

#include <tuple>

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include "iabn/kernels/merge.h"
#include "iabn/ops/checks.h"
#include "iabn/ops/tensors.h"

namespace iabn::ops {

/// Read access to a per-channel tensor as A, whatever its dtype and stride; holds the converted copy if there is one.
template <class A>
class ChannelValues {
 public:
  ChannelValues(const OptionalTensor& tensor, ScalarType accumulate) {
    if (!tensor) return;
    tensor_ = *tensor;
    if (tensor->scalar_type() != accumulate) tensor_ = torch::stable::to(tensor_, accumulate);
    if (!tensor_.is_contiguous()) tensor_ = torch::stable::contiguous(tensor_);
    data_ = static_cast<const A*>(tensor_.const_data_ptr());
  }
  const A* data() const { return data_; }

 private:
  Tensor tensor_;
  const A* data_ = nullptr;
};

/// Write access: the tensor's own memory where it fits, else a copy that `write_back` stores.
template <class A>
class MutableChannelValues {
 public:
  MutableChannelValues(OptionalTensor& tensor, ScalarType accumulate) : target_(tensor) {
    if (!tensor) return;
    values_ = *tensor;
    copied_ = tensor->scalar_type() != accumulate || !tensor->is_contiguous();
    if (copied_) values_ = torch::stable::contiguous(torch::stable::to(values_, accumulate));
    data_ = static_cast<A*>(values_.mutable_data_ptr());
  }
  A* data() const { return data_; }
  void write_back() {
    if (copied_) torch::stable::copy_(*target_, values_);
  }

 private:
  OptionalTensor& target_;
  Tensor values_;
  A* data_ = nullptr;
  bool copied_ = false;
};

template <class A>
A* data_or_null(const Tensor& tensor) {
  return tensor.numel() ? static_cast<A*>(tensor.mutable_data_ptr()) : nullptr;
}

/// z and d_z in one dense layout, and d_x in the same. d_z is copied where its layout differs (an expanded gradient,
/// for example); the copy is ours, so d_x then overwrites it instead of taking more memory.
struct Gradients {
  Tensor z, d_z, d_x;
  kernels::Shape shape;

  Gradients(const Tensor& z_, const Tensor& d_z_, bool needs_d_x) : z(to_dense(z_)), d_z(d_z_), shape(*dense_shape(z)) {
    const bool copied = !same_strides(z, d_z_);
    if (copied) {
      d_z = empty_dense(z);
      torch::stable::copy_(d_z, d_z_);
    }
    if (!needs_d_x) {
      d_x = empty_small(z, {0}, z.scalar_type());
    } else {
      d_x = copied ? d_z : empty_dense(z);
    }
  }
  template <class T>
  const T* z_data() const {
    return static_cast<const T*>(z.const_data_ptr());
  }
  template <class T>
  const T* d_z_data() const {
    return static_cast<const T*>(d_z.const_data_ptr());
  }
  template <class T>
  T* d_x_data() const {
    return data_or_null<T>(d_x);
  }
};

/// Running statistics while an operator updates them.
template <class A>
class RunningValues {
 public:
  RunningValues(OptionalTensor& mean, OptionalTensor& var, OptionalTensor& batches, std::optional<double> momentum,
                ScalarType accumulate)
      : mean_(mean, accumulate), var_(var, accumulate) {
    running_ = {mean_.data(), var_.data(), batches ? static_cast<int64_t*>(batches->mutable_data_ptr()) : nullptr,
                momentum.value_or(-1.0)};
  }
  const kernels::Running<A>& get() const { return running_; }
  void write_back() {
    mean_.write_back();
    var_.write_back();
  }

 private:
  MutableChannelValues<A> mean_, var_;
  kernels::Running<A> running_;
};

template <class Backend>
struct Front {
  using Context = typename Backend::Context;

  static std::tuple<Tensor, Tensor> forward(Tensor x, OptionalTensor weight, OptionalTensor bias,
                                            OptionalTensor running_mean, OptionalTensor running_var,
                                            OptionalTensor num_batches_tracked, std::optional<double> momentum,
                                            double eps, int64_t activation, double activation_param, int64_t gamma) {
    constexpr const char* op = "abn_forward_";
    check_activation_tensor(op, "x", x);
    check_writable(op, "x", x);
    check_enough_values(op, x);
    check_channels(op, "weight", weight, x);
    check_channels(op, "bias", bias, x);
    check_running(op, running_mean, running_var, num_batches_tracked, momentum, x);
    check_eps(op, eps);
    const ActivationSpec spec = check_activation(op, activation, activation_param, /*invertible=*/true);
    const kernels::GammaMode mode = check_gamma(op, gamma);

    const ScalarType accumulate = accumulate_dtype(x.scalar_type());
    Context context(x);
    Tensor mean = empty_small(x, {x.size(1)}, accumulate);
    Tensor var = empty_small(x, {x.size(1)}, accumulate);
    Tensor dense = to_dense(x);
    with_storage_type(x, [&](auto type) {
      using T = decltype(type);
      using A = kernels::accumulate_t<T>;
      const ChannelValues<A> w(weight, accumulate), b(bias, accumulate);
      RunningValues<A> running(running_mean, running_var, num_batches_tracked, momentum, accumulate);
      Backend::forward(context, static_cast<T*>(dense.mutable_data_ptr()), *dense_shape(dense),
                       kernels::Affine<A>{w.data(), b.data(), mode, A(eps)}, spec, running.get(),
                       static_cast<A*>(mean.mutable_data_ptr()), static_cast<A*>(var.mutable_data_ptr()));
      running.write_back();
    });
    if (dense.get() != x.get()) torch::stable::copy_(x, dense);
    return {mean, var};
  }

  static std::tuple<Tensor, Tensor, Tensor> functional(Tensor x, OptionalTensor weight, OptionalTensor bias, double eps,
                                                       int64_t activation, double activation_param, int64_t gamma,
                                                       int64_t /*revision*/) {
    check_activation_tensor("abn", "x", x);
    Tensor z = empty_dense(x);
    torch::stable::copy_(z, x);
    auto [mean, var] = forward(z, weight, bias, {}, {}, {}, 0.0, eps, activation, activation_param, gamma);
    return {z, mean, var};
  }

  static Tensor statistics(Tensor x) {
    constexpr const char* op = "abn_statistics";
    check_activation_tensor(op, "x", x);
    Context context(x);
    Tensor packed = empty_small(x, {3, x.size(1)}, accumulate_dtype(x.scalar_type()));
    const Tensor dense = to_dense(x);
    with_storage_type(x, [&](auto type) {
      using T = decltype(type);
      using A = kernels::accumulate_t<T>;
      Backend::statistics(context, static_cast<const T*>(dense.const_data_ptr()), *dense_shape(dense),
                          static_cast<A*>(packed.mutable_data_ptr()));
    });
    return packed;
  }

  static void apply(Tensor x, Tensor mean, Tensor var, OptionalTensor weight, OptionalTensor bias, double eps,
                    int64_t activation, double activation_param, int64_t gamma) {
    constexpr const char* op = "abn_apply_";
    check_activation_tensor(op, "x", x);
    check_writable(op, "x", x);
    check_channels(op, "mean", mean, x);
    check_channels(op, "var", var, x);
    check_channels(op, "weight", weight, x);
    check_channels(op, "bias", bias, x);
    check_eps(op, eps);
    const ActivationSpec spec = check_activation(op, activation, activation_param, /*invertible=*/false);
    const kernels::GammaMode mode = check_gamma(op, gamma);

    const ScalarType accumulate = accumulate_dtype(x.scalar_type());
    Context context(x);
    Tensor dense = to_dense(x);
    with_storage_type(x, [&](auto type) {
      using T = decltype(type);
      using A = kernels::accumulate_t<T>;
      const ChannelValues<A> m(mean, accumulate), v(var, accumulate), w(weight, accumulate), b(bias, accumulate);
      Backend::apply(context, static_cast<T*>(dense.mutable_data_ptr()), *dense_shape(dense), m.data(), v.data(),
                     kernels::Affine<A>{w.data(), b.data(), mode, A(eps)}, spec);
    });
    if (dense.get() != x.get()) torch::stable::copy_(x, dense);
  }

  static std::tuple<Tensor, Tensor, Tensor> backward(Tensor z, Tensor d_z, Tensor var, OptionalTensor weight,
                                                     OptionalTensor bias, bool training, double eps, int64_t activation,
                                                     double activation_param, int64_t gamma, bool needs_d_x,
                                                     bool needs_d_parameters) {
    constexpr const char* op = "abn_backward";
    check_activation_tensor(op, "z", z);
    check_like(op, "d_z", d_z, "z", z);
    check_channels(op, "var", var, z);
    check_channels(op, "weight", weight, z);
    check_channels(op, "bias", bias, z);
    check_eps(op, eps);
    const ActivationSpec spec = check_activation(op, activation, activation_param, /*invertible=*/training);
    check_frozen_activation(op, spec);
    const kernels::GammaMode mode = check_gamma(op, gamma);
    if (training) check_enough_values(op, z);

    const ScalarType accumulate = accumulate_dtype(z.scalar_type());
    Context context(z);
    const Gradients g(z, d_z, needs_d_x);
    const int64_t channels = needs_d_parameters ? z.size(1) : 0;
    Tensor d_weight = empty_small(z, {channels}, accumulate);
    Tensor d_bias = empty_small(z, {channels}, accumulate);
    with_storage_type(z, [&](auto type) {
      using T = decltype(type);
      using A = kernels::accumulate_t<T>;
      const ChannelValues<A> v(var, accumulate), w(weight, accumulate), b(bias, accumulate);
      const kernels::Affine<A> affine{w.data(), b.data(), mode, A(eps)};
      const auto kernel = training ? &Backend::template backward<T> : &Backend::template backward_frozen<T>;
      kernel(context, g.z_data<T>(), g.d_z_data<T>(), g.d_x_data<T>(), g.shape, v.data(), affine, spec,
             data_or_null<A>(d_weight), data_or_null<A>(d_bias));
    });
    return {g.d_x, d_weight, d_bias};
  }

  static Tensor backward_reduce(Tensor z, Tensor d_z, OptionalTensor bias, int64_t activation,
                                double activation_param) {
    constexpr const char* op = "abn_backward_reduce";
    check_activation_tensor(op, "z", z);
    check_like(op, "d_z", d_z, "z", z);
    check_channels(op, "bias", bias, z);
    const ActivationSpec spec = check_activation(op, activation, activation_param, /*invertible=*/true);

    const ScalarType accumulate = accumulate_dtype(z.scalar_type());
    Context context(z);
    const Gradients g(z, d_z, /*needs_d_x=*/false);
    Tensor sums = empty_small(z, {4, z.size(1)}, accumulate);
    with_storage_type(z, [&](auto type) {
      using T = decltype(type);
      using A = kernels::accumulate_t<T>;
      const ChannelValues<A> b(bias, accumulate);
      Backend::backward_reduce(context, g.z_data<T>(), g.d_z_data<T>(), g.shape, kernels::Affine<A>{nullptr, b.data()},
                               spec, static_cast<A*>(sums.mutable_data_ptr()));
    });
    return sums;
  }

  static Tensor backward_apply(Tensor z, Tensor d_z, Tensor sums, Tensor count, Tensor var, OptionalTensor weight,
                               OptionalTensor bias, double eps, int64_t activation, double activation_param,
                               int64_t gamma) {
    constexpr const char* op = "abn_backward_apply";
    check_activation_tensor(op, "z", z);
    check_like(op, "d_z", d_z, "z", z);
    check_sums(op, "sums", sums, z.size(1), accumulate_dtype(z.scalar_type()), z);
    check_count(op, count, sums);
    check_channels(op, "var", var, z);
    check_channels(op, "weight", weight, z);
    check_channels(op, "bias", bias, z);
    check_eps(op, eps);
    const ActivationSpec spec = check_activation(op, activation, activation_param, /*invertible=*/true);
    const kernels::GammaMode mode = check_gamma(op, gamma);

    const ScalarType accumulate = accumulate_dtype(z.scalar_type());
    Context context(z);
    const Gradients g(z, d_z, /*needs_d_x=*/true);
    with_storage_type(z, [&](auto type) {
      using T = decltype(type);
      using A = kernels::accumulate_t<T>;
      const ChannelValues<A> v(var, accumulate), w(weight, accumulate), b(bias, accumulate);
      Backend::backward_apply(context, g.z_data<T>(), g.d_z_data<T>(), g.d_x_data<T>(), g.shape,
                              static_cast<const A*>(sums.const_data_ptr()),
                              static_cast<const A*>(count.const_data_ptr()), v.data(),
                              kernels::Affine<A>{w.data(), b.data(), mode, A(eps)}, spec);
    });
    return g.d_x;
  }

  static std::tuple<Tensor, Tensor> backward_parameters(Tensor local_sums, Tensor sums, Tensor count,
                                                        OptionalTensor weight, double eps, int64_t gamma) {
    constexpr const char* op = "abn_backward_parameters";
    const ScalarType accumulate = sums.scalar_type();
    if (sums.dim() != 2 || (accumulate != ScalarType::Float && accumulate != ScalarType::Double)) {
      fail(op, "sums must be float32 or float64 of shape [4, C], got ", dtype_string(accumulate), " of shape ",
           shape_string(sums));
    }
    const int64_t channels = sums.size(1);
    check_sums(op, "sums", sums, channels, accumulate, sums);
    check_sums(op, "local_sums", local_sums, channels, accumulate, sums);
    check_count(op, count, sums);
    check_channels(op, "weight", weight, sums);
    check_eps(op, eps);
    const kernels::GammaMode mode = check_gamma(op, gamma);

    Context context(sums);
    Tensor d_weight = empty_small(sums, {channels}, accumulate);
    Tensor d_bias = empty_small(sums, {channels}, accumulate);
    with_storage_type(sums, [&](auto type) {
      using A = kernels::accumulate_t<decltype(type)>;
      const ChannelValues<A> w(weight, accumulate);
      Backend::backward_parameters(
          context, static_cast<const A*>(local_sums.const_data_ptr()), static_cast<const A*>(sums.const_data_ptr()),
          static_cast<const A*>(count.const_data_ptr()), channels, kernels::Affine<A>{w.data(), nullptr, mode, A(eps)},
          static_cast<A*>(d_weight.mutable_data_ptr()), static_cast<A*>(d_bias.mutable_data_ptr()));
    });
    return {d_weight, d_bias};
  }

  static std::tuple<Tensor, Tensor, Tensor> merge(Tensor gathered, OptionalTensor running_mean,
                                                  OptionalTensor running_var, OptionalTensor num_batches_tracked,
                                                  std::optional<double> momentum) {
    constexpr const char* op = "abn_merge";
    check_gathered(op, gathered);
    check_running(op, running_mean, running_var, num_batches_tracked, momentum, gathered);
    const ScalarType accumulate = gathered.scalar_type();
    const int64_t channels = gathered.size(1);
    Context context(gathered);
    Tensor mean = empty_small(gathered, {channels}, accumulate), var = empty_small(gathered, {channels}, accumulate);
    Tensor count = empty_small(gathered, {}, accumulate);
    with_storage_type(gathered, [&](auto type) {
      using A = kernels::accumulate_t<decltype(type)>;
      RunningValues<A> running(running_mean, running_var, num_batches_tracked, momentum, accumulate);
      Backend::merge(
          context,
          kernels::Gathered<A>{static_cast<const A*>(gathered.const_data_ptr()), gathered.size(0) / 3, channels},
          kernels::MergeResult<A>{static_cast<A*>(mean.mutable_data_ptr()), static_cast<A*>(var.mutable_data_ptr()),
                                  static_cast<A*>(count.mutable_data_ptr()), running.get()});
      running.write_back();
    });
    return {mean, var, count};
  }

  /// Registers every operator for the backend's dispatch key.
  static void register_ops(torch::stable::detail::StableLibrary& m) {
    m.impl("abn_forward_", TORCH_BOX(&Front::forward));
    m.impl("abn", TORCH_BOX(&Front::functional));
    m.impl("abn_statistics", TORCH_BOX(&Front::statistics));
    m.impl("abn_merge", TORCH_BOX(&Front::merge));
    m.impl("abn_apply_", TORCH_BOX(&Front::apply));
    m.impl("abn_backward", TORCH_BOX(&Front::backward));
    m.impl("abn_backward_reduce", TORCH_BOX(&Front::backward_reduce));
    m.impl("abn_backward_apply", TORCH_BOX(&Front::backward_apply));
    m.impl("abn_backward_parameters", TORCH_BOX(&Front::backward_parameters));
  }
};

}  // namespace iabn::ops
