#include "iabn/models/weight_init.h"

#include <cmath>
#include <stdexcept>

#include <torch/nn/init.h>
#include <torch/nn/modules/conv.h>
#include <torch/nn/modules/linear.h>

#include "iabn/models/nearest.h"
#include "iabn/nn/abn.h"

namespace iabn::models {
namespace {

namespace torch_init = torch::nn::init;

// The slope for negative values that decides how much variance the activation passes on.
double negative_slope(const WeightInit& init) {
  if (init.activation == "leaky_relu") return init.activation_param;
  return init.activation == "identity" ? 1.0 : 0.0;
}

void init_convolution(torch::Tensor& weight, const WeightInit& init) {
  const double slope = negative_slope(init);
  const double gain = init.gain_multiplier * std::sqrt(2.0 / (1.0 + slope * slope));
  if (init.method == "xavier_normal") {
    torch_init::xavier_normal_(weight, gain);
  } else if (init.method == "xavier_uniform") {
    torch_init::xavier_uniform_(weight, gain);
  } else if (init.method == "orthogonal") {
    torch_init::orthogonal_(weight, gain);
  } else if (init.method == "kaiming_normal") {
    torch_init::kaiming_normal_(weight, slope);
  } else if (init.method == "kaiming_uniform") {
    torch_init::kaiming_uniform_(weight, slope);
  } else {
    throw std::invalid_argument("unknown weight_init \"" + init.method + "\"" +
                                did_you_mean(init.method, weight_init_names()) +
                                "; known: " + join(weight_init_names()));
  }
}

}  // namespace

std::vector<std::string> weight_init_names() {
  return {"xavier_normal", "xavier_uniform", "kaiming_normal", "kaiming_uniform", "orthogonal"};
}

void init_weights(torch::nn::Module& network, const WeightInit& init) {
  torch::NoGradGuard no_grad;
  for (const auto& module : network.modules()) {
    if (auto* conv = module->as<torch::nn::Conv2dImpl>()) {
      init_convolution(conv->weight, init);
      if (conv->bias.defined()) conv->bias.zero_();
    } else if (auto* linear = module->as<torch::nn::LinearImpl>()) {
      torch_init::xavier_uniform_(linear->weight, 0.1);
      if (linear->bias.defined()) linear->bias.zero_();
    } else if (auto* norm = dynamic_cast<nn::NormActImpl*>(module.get())) {
      norm->reset_parameters();
    }
  }
}

}  // namespace iabn::models
