#pragma once

// The independent oracle: plain BatchNorm + activation in float64, gradients by PyTorch's autograd of elementary
// operations. Shares no code with the library.

#include <string>

#include <torch/types.h>

namespace iabn::test {

struct OracleOptions {
  std::string activation = "leaky_relu";
  double param = 0.01;
  bool legacy = false;  // gamma = |weight| + eps
  bool training = true;
  double eps = 1e-5;
  double momentum = 0.1;
};

/// All float64 on the CPU; x, z, d_x [N, C, ...], the others [C].
struct OracleResult {
  torch::Tensor z, y, d_y, d_x, d_weight, d_bias, mean, var, running_mean, running_var;
};

/// d_z: gradient of the output. weight, bias, running_mean, running_var may be undefined (1, 0, untracked).
OracleResult oracle(const torch::Tensor& x, const torch::Tensor& weight, const torch::Tensor& bias,
                    const torch::Tensor& running_mean, const torch::Tensor& running_var, const torch::Tensor& d_z,
                    const OracleOptions& options);

/// [C] -> [1, C, 1, ...] for a tensor of `dims` dimensions.
torch::Tensor per_channel(const torch::Tensor& values, int64_t dims);
/// Sum over everything but channels: [N, C, ...] -> [C].
torch::Tensor channel_sum(const torch::Tensor& values);

}  // namespace iabn::test
