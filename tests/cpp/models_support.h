#pragma once

// What the tests of the networks share.

#include <string>
#include <vector>

#include "iabn/models/network.h"

namespace iabn::test {

/// leaky_relu, 10 classes, 3 input channels.
models::NetworkOptions network_options(const std::string& norm_mode, const std::string& activation = "leaky_relu");

/// [N, 3, side, side] of normal values, the same for a seed.
torch::Tensor pictures(int64_t count, int64_t side, torch::Dtype dtype = torch::kFloat);

struct FamilyMember {
  const char* name;
  int64_t side;  // of a small input that every module can still halve
};

/// One small network of each family.
std::vector<FamilyMember> families();

}  // namespace iabn::test
