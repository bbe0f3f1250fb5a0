#pragma once

// A module's weights by name, in PyTorch's order.

#include <string>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

namespace iabn::nn {

using NamedTensors = std::vector<std::pair<std::string, at::Tensor>>;

/// What module.state_dict() gives in Python: each module's parameters, its buffers, then its children, in the order of
/// their registration. The tensors are the module's own.
NamedTensors state_dict(const torch::nn::Module& module);

}  // namespace iabn::nn
