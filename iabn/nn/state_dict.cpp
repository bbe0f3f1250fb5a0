#include "iabn/nn/state_dict.h"

namespace iabn::nn {
namespace {

void append(const torch::nn::Module& module, const std::string& prefix, NamedTensors& result) {
  for (const auto& item : module.named_parameters(/*recurse=*/false)) {
    result.emplace_back(prefix + item.key(), item.value());
  }
  for (const auto& item : module.named_buffers(/*recurse=*/false)) {
    result.emplace_back(prefix + item.key(), item.value());
  }
  for (const auto& child : module.named_children()) append(*child.value(), prefix + child.key() + ".", result);
}

}  // namespace

NamedTensors state_dict(const torch::nn::Module& module) {
  NamedTensors result;
  append(module, "", result);
  return result;
}

}  // namespace iabn::nn
