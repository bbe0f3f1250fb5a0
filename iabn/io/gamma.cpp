#include "iabn/io/gamma.h"

#include <cmath>
#include <cstring>
#include <map>

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include "iabn/io/error.h"
#include "iabn/io/text.h"
#include "iabn/io/visit.h"

namespace iabn::io {
namespace {

// Calls `body` with a value of the element type and of the type that the layer computes in.
template <class Body>
auto with_float_types(DType dtype, const std::string& key, Body&& body) {
  switch (dtype) {
    case DType::kFloat64:
      return body(double{}, double{});
    case DType::kFloat32:
      return body(float{}, float{});
    case DType::kFloat16:
      return body(c10::Half{}, float{});
    case DType::kBFloat16:
      return body(c10::BFloat16{}, float{});
    default:
      throw CheckpointError("the weight " + printable(key) + " of a norm has dtype " + std::string(name_of(dtype)) +
                            ": expected a floating-point type");
  }
}

template <class T>
std::vector<T> elements(const Tensor& tensor) {
  const std::vector<uint8_t> bytes = contiguous_bytes(tensor);
  std::vector<T> values(bytes.size() / sizeof(T));
  if (!bytes.empty()) std::memcpy(values.data(), bytes.data(), bytes.size());
  return values;
}

template <class T>
Tensor with_elements(const Tensor& like, const std::vector<T>& values) {
  std::vector<uint8_t> bytes(values.size() * sizeof(T));
  if (!bytes.empty()) std::memcpy(bytes.data(), values.data(), bytes.size());
  Tensor result = make_tensor(like.dtype, like.sizes, std::move(bytes));
  result.requires_grad = like.requires_grad;
  result.is_parameter = like.is_parameter;
  return result;
}

// The weight w with w + eps = gamma in the arithmetic of the layer, where rounding leaves one.
template <class Compute>
Compute legacy_weight(Compute gamma, Compute eps) {
  const Compute weight = gamma - eps;
  for (const Compute candidate :
       {weight, std::nextafter(weight, Compute(INFINITY)), std::nextafter(weight, Compute(0))}) {
    if (candidate + eps == gamma) return candidate;
  }
  return weight;
}

// Number of channels whose gamma the legacy form cannot express.
int64_t inexpressible(const NormWeight& weight, double eps) {
  return with_float_types(weight.tensor->dtype, weight.key, [&]<class T, class Compute>(T, Compute) {
    int64_t count = 0;
    for (const T value : elements<T>(*weight.tensor)) count += static_cast<Compute>(value) < static_cast<Compute>(eps);
    return count;
  });
}

void check_expressible(const std::vector<NormWeight>& weights, double eps) {
  constexpr int kNamed = 5;
  int64_t channels = 0, layers = 0;
  std::string names;
  for (const NormWeight& weight : weights) {
    const int64_t count = inexpressible(weight, eps);
    if (count == 0) continue;
    channels += count;
    if (++layers <= kNamed) {
      names += (names.empty() ? "" : ", ") + printable(weight.key) + " (" + std::to_string(count) + " of " +
               std::to_string(weight.tensor->sizes[0]) + ")";
    }
  }
  if (channels == 0) return;
  char eps_text[32];
  std::snprintf(eps_text, sizeof eps_text, "%g", eps);
  throw CheckpointError("legacy gamma is |weight| + eps, never below eps = " + std::string(eps_text) + ", but " +
                        std::to_string(channels) + " channels of " + std::to_string(layers) +
                        " norms have a smaller or negative gamma: " + names + (layers > kNamed ? ", ..." : "") +
                        "; keep them signed");
}

Tensor converted(const NormWeight& weight, Gamma to, double eps) {
  return with_float_types(weight.tensor->dtype, weight.key, [&]<class T, class Compute>(T, Compute) {
    std::vector<T> values = elements<T>(*weight.tensor);
    const auto eps_here = static_cast<Compute>(eps);
    for (T& value : values) {
      const auto old = static_cast<Compute>(value);
      value = static_cast<T>(to == Gamma::kSigned ? std::fabs(old) + eps_here : legacy_weight(old, eps_here));
    }
    return with_elements(*weight.tensor, values);
  });
}

void add_norms_of(const std::string& path, Dict& dict, std::vector<NormWeight>& found) {
  std::map<std::string_view, const Tensor*> vectors;
  for (const Item& item : dict.items) {
    const auto* key = std::get_if<std::string>(&item.key);
    const Tensor* tensor = item.value.as<Tensor>();
    if (key != nullptr && tensor != nullptr && tensor->sizes.size() == 1) vectors.emplace(*key, tensor);
  }
  for (Item& item : dict.items) {
    const auto* key = std::get_if<std::string>(&item.key);
    Tensor* tensor = item.value.as<Tensor>();
    if (key == nullptr || tensor == nullptr || tensor->sizes.size() != 1) continue;
    if (*key != "weight" && !key->ends_with(".weight")) continue;
    const std::string prefix = key->substr(0, key->size() - 6);
    const auto is_beside = [&](const char* name) {
      const auto other = vectors.find(prefix + name);
      return other != vectors.end() && other->second->sizes == tensor->sizes;
    };
    if (is_beside("running_mean") && is_beside("running_var")) {
      found.push_back({(path.empty() ? "" : path + ".") + *key, tensor});
    }
  }
}

}  // namespace

const char* name_of(Gamma gamma) { return gamma == Gamma::kSigned ? "signed" : "legacy"; }

std::optional<Gamma> gamma_from_name(std::string_view name) {
  for (const Gamma gamma : {Gamma::kSigned, Gamma::kLegacy}) {
    if (name == name_of(gamma)) return gamma;
  }
  return std::nullopt;
}

Gamma original_gamma(std::string_view bn_mode) {
  return bn_mode == "inplace" || bn_mode == "sync" ? Gamma::kLegacy : Gamma::kSigned;
}

std::vector<NormWeight> norm_weights(Value& root) {
  std::vector<NormWeight> found;
  for_each_dict(root, [&](const std::string& path, Dict& dict) { add_norms_of(path, dict, found); });
  return found;
}

NormSummary summarise_norms(Value& root, double eps) {
  NormSummary summary;
  for (const NormWeight& weight : norm_weights(root)) {
    if (!is_floating_point(weight.tensor->dtype)) continue;
    ++summary.norms;
    summary.channels += weight.tensor->sizes[0];
    summary.below_eps += inexpressible(weight, eps);
    summary.negative += inexpressible(weight, 0);
  }
  return summary;
}

void convert_gamma(Value& root, Gamma from, Gamma to, double eps) {
  if (from == to) return;
  const std::vector<NormWeight> weights = norm_weights(root);
  if (to == Gamma::kLegacy) check_expressible(weights, eps);
  std::vector<Tensor> results;
  for (const NormWeight& weight : weights) results.push_back(converted(weight, to, eps));
  for (size_t i = 0; i < weights.size(); ++i) *weights[i].tensor = std::move(results[i]);
}

}  // namespace iabn::io
