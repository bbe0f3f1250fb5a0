#pragma once

// Device arrays, random problems and a naive float64 oracle for the tests of the CUDA kernels. The oracle is the
// textbook BatchNorm and activation over x, written without the product's formulas or helpers.

#include <cuda_runtime_api.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "iabn/kernels/cuda/kernels.h"
#include "iabn/kernels/cuda/two_pass.h"

namespace iabn::test {

using kernels::accumulate_t;
using kernels::Layout;
using kernels::Shape;

inline void cuda_check(cudaError_t status) {
  if (status != cudaSuccess) throw std::runtime_error(std::string("CUDA: ") + cudaGetErrorString(status));
}

/// Device memory with the contents of a host vector, `shift` elements off its natural 256-byte alignment.
template <class T>
class DeviceArray {
 public:
  explicit DeviceArray(const std::vector<T>& host, size_t shift = 0) : DeviceArray(host.size(), shift) { set(host); }
  explicit DeviceArray(size_t size, size_t shift = 0) : size_(size), shift_(shift) {
    cuda_check(cudaMalloc(&base_, (size + shift + 1) * sizeof(T)));
    cuda_check(cudaMemset(base_, 0xff, (size + shift + 1) * sizeof(T)));  // unwritten results are NaN
  }
  ~DeviceArray() { cudaFree(base_); }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;

  T* get() const { return static_cast<T*>(base_) + shift_; }
  size_t size() const { return size_; }
  void set(const std::vector<T>& host) {
    cuda_check(cudaMemcpy(get(), host.data(), size_ * sizeof(T), cudaMemcpyHostToDevice));
  }
  std::vector<T> host() const {
    std::vector<T> result(size_);
    cuda_check(cudaMemcpy(result.data(), get(), size_ * sizeof(T), cudaMemcpyDeviceToHost));
    return result;
  }

 private:
  void* base_ = nullptr;
  size_t size_;
  size_t shift_;
};

template <class T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
}

/// Unit round-off of a storage type.
template <class T>
double unit_roundoff() {
  if (std::is_same_v<T, kernels::BFloat16>) return 0x1p-8;
  if (std::is_same_v<T, kernels::Half>) return 0x1p-11;
  return std::is_same_v<T, float> ? 0x1p-24 : 0x1p-53;
}

inline double activate(const ActivationSpec& act, double y) {
  switch (act.kind) {
    case Activation::kLeakyReLU:
      return y < 0 ? act.param * y : y;
    case Activation::kELU:
      return y > 0 ? y : act.param * std::expm1(y);
    case Activation::kReLU:
      return std::isnan(y) ? y : std::max(y, 0.0);
    default:
      return y;
  }
}

/// d activation / d y at y.
inline double slope_at(const ActivationSpec& act, double y) {
  switch (act.kind) {
    case Activation::kLeakyReLU:
      return y < 0 ? act.param : 1;
    case Activation::kELU:
      return y > 0 ? 1 : act.param * std::exp(y);
    case Activation::kReLU:
      return y > 0 ? 1 : 0;
    default:
      return 1;
  }
}

/// y with activate(y) = z; `lowest` where z has been rounded to ELU's asymptote.
inline double deactivate(const ActivationSpec& act, double z, double lowest) {
  if (act.kind == Activation::kLeakyReLU) return std::signbit(z) ? z / act.param : z;
  if (act.kind == Activation::kELU && z <= 0) {
    return z <= -act.param ? lowest : std::max(lowest, std::log1p(z / act.param));
  }
  return z;
}

template <class T>
struct Problem {
  using A = accumulate_t<T>;
  Shape shape;
  ActivationSpec act;
  kernels::GammaMode mode = kernels::GammaMode::kSigned;
  std::vector<T> x, d_z;
  std::vector<T> r;  // of the residual form; empty: none
  std::vector<A> weight, bias;
  A eps = A(1e-5);

  Problem(const Shape& shape_, const ActivationSpec& act_, unsigned seed = 1) : shape(shape_), act(act_) {
    std::mt19937 random(seed);
    std::normal_distribution<double> normal;
    std::uniform_real_distribution<double> uniform;
    std::vector<double> center(shape.c), spread(shape.c);
    for (int64_t c = 0; c < shape.c; ++c) {
      center[c] = normal(random);
      spread[c] = 0.5 + uniform(random);
      weight.push_back(A(0.5 + uniform(random)));
      bias.push_back(A(uniform(random) - 0.5));
    }
    x.resize(shape.numel());
    d_z.resize(shape.numel());
    for (int64_t i = 0; i < shape.numel(); ++i) {
      const int64_t c = channel(i);
      x[i] = T(static_cast<float>(center[c] + spread[c] * normal(random)));
      d_z[i] = T(static_cast<float>(0.3 + normal(random) + 0.2 * static_cast<double>(x[i])));
    }
  }

  void add_residual(double scale = 1) {
    std::mt19937 random(7);
    std::normal_distribution<double> normal;
    for (size_t i = 0; i < x.size(); ++i) r.push_back(T(static_cast<float>(scale * normal(random))));
  }
  double residual(int64_t i) const { return r.empty() ? 0 : double(r[i]); }
  int64_t channel(int64_t i) const {
    return shape.layout == Layout::kChannelsLast ? i % shape.c : i / shape.s % shape.c;
  }
  double gamma(int64_t c) const {
    return mode == kernels::GammaMode::kSigned ? double(weight[c]) : std::abs(double(weight[c])) + double(eps);
  }
};

/// Forward and gradients of BatchNorm (+ residual) + activation over x, as a textbook writes them. Sums in long double,
/// so that float64 kernels can be judged too.
struct Oracle {
  using Sums = std::vector<long double>;
  Sums mean, var, d_gamma, d_beta;
  std::vector<double> z, d_y, d_x;

  template <class T>
  explicit Oracle(const Problem<T>& p)
      : mean(p.shape.c), var(p.shape.c), d_gamma(p.shape.c), d_beta(p.shape.c), z(p.x.size()), d_x(p.x.size()) {
    const long double m = p.shape.count();
    const int64_t size = p.shape.numel();
    for (int64_t i = 0; i < size; ++i) mean[p.channel(i)] += double(p.x[i]);
    for (auto& sum : mean) sum /= m;
    for (int64_t i = 0; i < size; ++i) {
      const long double deviation = double(p.x[i]) - mean[p.channel(i)];
      var[p.channel(i)] += deviation * deviation;
    }
    for (auto& sum : var) sum /= m;
    std::vector<double> x_hat(size);
    d_y.resize(size);
    for (int64_t i = 0; i < size; ++i) {
      const int64_t c = p.channel(i);
      x_hat[i] = double((double(p.x[i]) - mean[c]) / std::sqrt(var[c] + double(p.eps)));
      const double y = p.gamma(c) * x_hat[i] + double(p.bias[c]) + p.residual(i);
      z[i] = activate(p.act, y);
      d_y[i] = double(p.d_z[i]) * slope_at(p.act, y);
      d_beta[c] += d_y[i];
      d_gamma[c] += d_y[i] * x_hat[i];
    }
    for (int64_t i = 0; i < size; ++i) {
      const int64_t c = p.channel(i);
      d_x[i] =
          double(p.gamma(c) / std::sqrt(var[c] + double(p.eps)) * (d_y[i] - d_beta[c] / m - x_hat[i] * d_gamma[c] / m));
    }
  }
};

/// A problem on the device, and the calls of the kernels over it.
template <class T>
struct Run {
  using A = accumulate_t<T>;
  const Problem<T>& p;
  DeviceArray<T> x, d_z, d_x, r, d_r;  // x becomes z
  DeviceArray<A> weight, bias, mean, var, d_weight, d_bias, sums, packed, count;
  DeviceArray<char> workspace;
  cudaStream_t stream = nullptr;

  explicit Run(const Problem<T>& p_, size_t shift = 0)
      : p(p_),
        x(p.x, shift),
        d_z(p.d_z, shift),
        d_x(p.x.size(), shift),
        r(p.r, shift),
        d_r(p.r.size(), shift),
        weight(p.weight),
        bias(p.bias),
        mean(p.shape.c),
        var(p.shape.c),
        d_weight(p.shape.c),
        d_bias(p.shape.c),
        sums(4 * p.shape.c),
        packed(3 * p.shape.c),
        count(std::vector<A>{A(p.shape.count())}),
        workspace(kernels::cuda::workspace_bytes<T>(p.shape)) {}

  kernels::Affine<A> affine() const { return {weight.get(), bias.get(), p.mode, p.eps}; }
  void forward(const kernels::Running<A>& running = {}) {
    kernels::cuda::forward(x.get(), p.shape, affine(), p.act, running, mean.get(), var.get(), workspace.get(), stream);
  }
  void two_pass_forward() {
    kernels::cuda::two_pass_forward<T>(x.get(), p.shape, affine(), p.act, {}, mean.get(), var.get(), workspace.get(),
                                       stream);
  }
  void two_pass_backward() {
    kernels::cuda::two_pass_backward<T>(x.get(), d_z.get(), d_x.get(), p.shape, var.get(), affine(), p.act,
                                        d_weight.get(), d_bias.get(), workspace.get(), stream);
  }
  void residual_forward(const kernels::Running<A>& running = {}) {
    kernels::cuda::residual_forward(x.get(), r.get(), p.shape, affine(), p.act, running, mean.get(), var.get(),
                                    workspace.get(), stream);
  }
  void residual_backward() { residual_backward_into(d_x.get(), d_r.get()); }
  void residual_backward_into(T* d_x_target, T* d_r_target) {
    kernels::cuda::residual_backward<T>(x.get(), d_z.get(), r.get(), d_x_target, d_r_target, p.shape, var.get(),
                                        affine(), p.act, d_weight.get(), d_bias.get(), workspace.get(), stream);
  }
  void statistics() { kernels::cuda::statistics<T>(x.get(), p.shape, packed.get(), workspace.get(), stream); }
  void apply() { kernels::cuda::apply(x.get(), p.shape, mean.get(), var.get(), affine(), p.act, stream); }
  void backward() { backward_into(d_x.get()); }
  void backward_into(T* target) {
    kernels::cuda::backward<T>(x.get(), d_z.get(), target, p.shape, var.get(), affine(), p.act, d_weight.get(),
                               d_bias.get(), workspace.get(), stream);
  }
  void backward_reduce() {
    kernels::cuda::backward_reduce<T>(x.get(), d_z.get(), p.shape, affine(), p.act, sums.get(), workspace.get(),
                                      stream);
  }
  void backward_apply() {
    kernels::cuda::backward_apply<T>(x.get(), d_z.get(), d_x.get(), p.shape, sums.get(), count.get(), var.get(),
                                     affine(), p.act, stream);
  }
};

}  // namespace iabn::test
