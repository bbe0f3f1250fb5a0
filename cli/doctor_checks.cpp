#include "cli/doctor_checks.h"

#include <algorithm>
#include <cstdio>
#include <vector>

#include <ATen/ATen.h>
#include <torch/csrc/autograd/autograd.h>

#include "iabn/nn/functional.h"

namespace iabn::cli {
namespace {

constexpr double kSlope = 0.01, kMomentum = 0.1, kEps = 1e-5;
// float64 with some thousand values per channel: about 1e3 roundings of 1e-16 relative to values of size 1 to 10.
constexpr double kTolerance = 1e-10;

struct Outcome {
  at::Tensor output;
  std::vector<at::Tensor> gradients;  // of x, weight, bias
};

Outcome run(bool ours, const std::vector<at::Tensor>& values, const at::Tensor& d_output) {
  std::vector<at::Tensor> leaves;
  for (const at::Tensor& value : values) leaves.push_back(value.clone().requires_grad_());
  const at::Tensor mean = at::zeros_like(values[1]), var = at::ones_like(values[1]);
  const at::Tensor x = leaves[0].clone();
  at::Tensor z;
  if (ours) {
    nn::InPlaceABNFuncOptions options;
    options.momentum = kMomentum;
    options.eps = kEps;
    options.activation = {Activation::kLeakyReLU, kSlope};
    z = nn::inplace_abn(x, leaves[1], leaves[2], mean, var, at::zeros({}, x.options().dtype(at::kLong)), options);
  } else {
    z = at::leaky_relu(at::batch_norm(x, leaves[1], leaves[2], mean, var, true, kMomentum, kEps, false), kSlope);
  }
  Outcome outcome{z.detach().clone(), torch::autograd::grad({z}, leaves, {d_output})};
  outcome.gradients.push_back(mean);
  outcome.gradients.push_back(var);
  return outcome;
}

double difference(const at::Tensor& a, const at::Tensor& b) {
  const double scale = std::max(1.0, b.abs().max().item<double>());
  return (a - b).abs().max().item<double>() / scale;
}

}  // namespace

SelfTest test_layer(c10::Device device) {
  constexpr int64_t kChannels = 19;  // no multiple of a vector
  try {
    const auto options = at::TensorOptions(at::kDouble).device(device);
    double worst = 0;
    for (const auto format : {at::MemoryFormat::Contiguous, at::MemoryFormat::ChannelsLast}) {
      const at::Tensor x = (at::randn({8, kChannels, 13, 11}, options) * 2 + 1).contiguous(format);
      const at::Tensor weight = at::rand({kChannels}, options) + 0.5;
      weight[3] = -0.7;
      const std::vector<at::Tensor> values{x, weight, at::randn({kChannels}, options)};
      const at::Tensor d_output = at::randn({8, kChannels, 13, 11}, options).contiguous(format);
      const Outcome ours = run(true, values, d_output), expected = run(false, values, d_output);
      worst = std::max(worst, difference(ours.output, expected.output));
      for (size_t i = 0; i < ours.gradients.size(); ++i) {
        worst = std::max(worst, difference(ours.gradients[i], expected.gradients[i]));
      }
    }
    char text[96];
    std::snprintf(text, sizeof text, "largest relative error %.1e, allowed %.0e", worst, kTolerance);
    return {worst <= kTolerance, text};
  } catch (const c10::Error& error) {
    return {false, error.what_without_backtrace()};
  } catch (const std::exception& error) {
    return {false, error.what()};
  }
}

}  // namespace iabn::cli
