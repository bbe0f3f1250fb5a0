#pragma once

// The two meanings of a norm's weight in a file, and from one to the other.
//
// signed: the weight is gamma, as in BatchNorm, so weights of BatchNorm and of in-place layers are the same numbers.
// legacy: the original package's; gamma = |weight| + eps.

#include <optional>
#include <string>
#include <vector>

#include "iabn/io/value.h"

namespace iabn::io {

enum class Gamma : uint8_t { kSigned, kLegacy };

/// "signed", "legacy".
const char* name_of(Gamma gamma);
std::optional<Gamma> gamma_from_name(std::string_view name);

/// What a file of the original package means that was trained with this network.bn_mode: legacy for inplace and sync.
Gamma original_gamma(std::string_view bn_mode);

/// The eps of PyTorch's and the original's layers where nobody chose another.
inline constexpr double kDefaultEps = 1e-5;

/// The weight of a norm: a tensor [C] under a key that ends in "weight", with running_mean and running_var [C] beside
/// it. Weights of norms that keep no running statistics cannot be told from others.
struct NormWeight {
  std::string key;  // from the root on: "state_dict.module.bn1.weight"
  Tensor* tensor;
};
std::vector<NormWeight> norm_weights(Value& root);

/// What the weights of a tree's norms are like.
struct NormSummary {
  int64_t norms = 0, channels = 0;
  int64_t negative = 0;   // weights below 0
  int64_t below_eps = 0;  // weights below eps, the negative ones included
};
NormSummary summarise_norms(Value& root, double eps);

/// Replaces the weights of all norms so that gamma stays what it is, to one rounding of their dtype; each gets storage
/// of its own. From legacy: |weight| + eps. To legacy: gamma - eps, which exists only where gamma >= eps: otherwise
/// throws CheckpointError with the keys and the number of channels, and nothing is changed. Weights that are not
/// floating-point numbers are an error.
void convert_gamma(Value& root, Gamma from, Gamma to, double eps);

}  // namespace iabn::io
