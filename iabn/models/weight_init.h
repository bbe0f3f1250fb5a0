#pragma once

// Initial weights of a network.

#include <string>
#include <vector>

namespace torch::nn {
class Module;
}

namespace iabn::models {

struct WeightInit {
  /// One of weight_init_names().
  std::string method = "xavier_normal";
  /// Multiplies the gain of xavier_* and orthogonal.
  double gain_multiplier = 1;
  std::string activation = "relu";
  double activation_param = 0.01;
};

/// xavier_normal, xavier_uniform, kaiming_normal, kaiming_uniform, orthogonal.
std::vector<std::string> weight_init_names();

/// Convolutions: `method` with the activation's gain (xavier_*, orthogonal) or slope (kaiming_*), bias 0; ELU counts as
/// ReLU. Norm layers: weight 1, bias 0. Linear layers: xavier_uniform with gain 0.1, bias 0. Draws from LibTorch's
/// default generator. Throws std::invalid_argument where the method is unknown.
void init_weights(torch::nn::Module& network, const WeightInit& init);

}  // namespace iabn::models
