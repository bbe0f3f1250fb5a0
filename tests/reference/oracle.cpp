#include "tests/reference/oracle.h"

#include <torch/autograd.h>

#include <stdexcept>

namespace iabn::test {

using torch::Tensor;

namespace {

Tensor activate(const Tensor& y, const OracleOptions& options) {
  if (options.activation == "identity") return y * 1;
  const Tensor zero = torch::zeros_like(y);
  if (options.activation == "relu") return torch::where(y > 0, y, zero);
  if (options.activation == "leaky_relu") return torch::where(y > 0, y, y * options.param);
  // The inner where keeps exp's overflow for large y out of the gradient.
  if (options.activation == "elu") {
    return torch::where(y > 0, y, (torch::where(y > 0, zero, y).exp() - 1) * options.param);
  }
  throw std::invalid_argument("oracle: unknown activation " + options.activation);
}

Tensor float64(const Tensor& tensor) {
  return tensor.defined() ? tensor.detach().to(torch::kCPU, torch::kDouble).clone() : Tensor();
}

}  // namespace

Tensor per_channel(const Tensor& values, int64_t dims) {
  std::vector<int64_t> shape(dims, 1);
  shape[1] = values.numel();
  return values.reshape(shape);
}

Tensor channel_sum(const Tensor& values) { return values.transpose(0, 1).reshape({values.size(1), -1}).sum(1); }

OracleResult oracle(const Tensor& x_, const Tensor& weight_, const Tensor& bias_, const Tensor& running_mean,
                    const Tensor& running_var, const Tensor& d_z_, const OracleOptions& options) {
  const int64_t dims = x_.dim(), channels = x_.size(1);
  const double m = static_cast<double>(x_.numel()) / static_cast<double>(channels);
  const Tensor x = float64(x_).set_requires_grad(true);
  const auto parameter = [&](const Tensor& given, double value) {
    return (given.defined() ? float64(given) : torch::full({channels}, value, torch::kDouble)).set_requires_grad(true);
  };
  const Tensor weight = parameter(weight_, 1), bias = parameter(bias_, 0);

  Tensor mean, var;
  if (options.training) {
    mean = channel_sum(x) / m;
    var = channel_sum((x - per_channel(mean, dims)).square()) / m;
  } else {
    mean = float64(running_mean);
    var = float64(running_var);
  }
  // where instead of abs: the derivative at 0 counts as +1, the convention of the layer.
  const Tensor gamma = options.legacy ? torch::where(weight < 0, -weight, weight) + options.eps : weight;
  const Tensor x_hat = (x - per_channel(mean, dims)) / per_channel((var + options.eps).sqrt(), dims);
  Tensor y = x_hat * per_channel(gamma, dims) + per_channel(bias, dims);
  y.retain_grad();
  const Tensor z = activate(y, options);
  z.backward(float64(d_z_));

  OracleResult result{z.detach(),  y.detach(),    y.grad(),     x.grad(), weight.grad(),
                      bias.grad(), mean.detach(), var.detach(), {},       {}};
  if (running_mean.defined()) {
    result.running_mean = float64(running_mean);
    result.running_var = float64(running_var);
    if (options.training) {
      result.running_mean = result.running_mean * (1 - options.momentum) + result.mean * options.momentum;
      result.running_var = result.running_var * (1 - options.momentum) + result.var * (m / (m - 1)) * options.momentum;
    }
  }
  return result;
}

}  // namespace iabn::test
