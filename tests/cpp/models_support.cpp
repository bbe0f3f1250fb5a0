#include "tests/cpp/models_support.h"

#include <torch/torch.h>

namespace iabn::test {

models::NetworkOptions network_options(const std::string& norm_mode, const std::string& activation) {
  models::NetworkOptions options;
  options.norm_mode = norm_mode;
  options.activation = activation;
  options.classes = 10;
  return options;
}

torch::Tensor pictures(int64_t count, int64_t side, torch::Dtype dtype) {
  torch::manual_seed(7);
  return torch::randn({count, 3, side, side}, torch::kDouble).to(dtype);
}

std::vector<FamilyMember> families() {
  return {{"resnet18", 32},       {"resnet50", 32},          {"resnext50", 32},      {"densenet121", 32},
          {"wider_resnet16", 32}, {"wider_resnet16_a2", 32}, {"cifar_resnet20", 16}, {"preact_resnet14", 12}};
}

}  // namespace iabn::test
