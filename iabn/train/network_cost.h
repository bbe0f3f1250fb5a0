#pragma once

// What a network costs, found without computing it: its own code and PyTorch's autograd run on tensors without data.

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

namespace torch::nn {
class Module;
}
namespace iabn::models {
struct NetworkOptions;
}

namespace iabn::train {

struct NetworkCost {
  int64_t parameters = 0;
  int64_t multiply_adds = 0;  // of convolutions and linear layers, forward
  int64_t held = 0;           // bytes that forward in training leaves allocated for backward, the output included
};

/// A module with the function that runs it.
struct Runnable {
  std::shared_ptr<torch::nn::Module> module;
  std::function<at::Tensor(at::Tensor)> forward;
};

/// Calls `build` and the result's forward once, in training mode, with a float32 input of `sizes` that needs no
/// gradient. Nothing is computed and no memory taken, however large the network: every tensor that is made meanwhile on
/// this thread has sizes only. Not in `held`: the input, parameters, and what the kernels of a device keep for
/// themselves.
NetworkCost network_cost(const std::function<Runnable()>& build, const std::vector<int64_t>& sizes);

/// The same for a network of the registry; options.norm_mode decides how much is held.
NetworkCost network_cost(const std::string& name, const models::NetworkOptions& options,
                         const std::vector<int64_t>& sizes);

}  // namespace iabn::train
