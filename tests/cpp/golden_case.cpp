#include "tests/cpp/golden_case.h"

#include <cmath>
#include <cstdint>
#include <functional>
#include <stdexcept>
#include <utility>

#include <torch/torch.h>
#include <nlohmann/json.hpp>

#include "iabn/models/deeplab_v3.h"
#include "iabn/models/network.h"
#include "iabn/models/registry.h"
#include "iabn/nn/state_dict.h"

namespace iabn::test {
namespace {

using nlohmann::json;
using torch::Tensor;

constexpr double kTolerance = 1e-9;

// ---- What the numbers are made from -----------------------------------------------------------------------------

double uniform(uint64_t t, uint64_t i) {
  uint64_t z = (t << 32) + i + 0x9E3779B97F4A7C15u;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  z ^= z >> 31;
  return static_cast<double>(z >> 11) * 0x1p-53;
}

/// scale*u(t, i) + shift.
void fill(Tensor tensor, uint64_t t, double scale, double shift) {
  TORCH_CHECK(tensor.is_contiguous() && tensor.scalar_type() == torch::kDouble);
  auto* values = tensor.data_ptr<double>();
  for (int64_t i = 0; i < tensor.numel(); ++i) values[i] = scale * uniform(t, static_cast<uint64_t>(i)) + shift;
}

using State = nn::NamedTensors;

void fill_state(const State& state) {
  const torch::NoGradGuard no_grad;
  for (size_t t = 0; t < state.size(); ++t) {
    const auto& [key, tensor] = state[t];
    const std::string name = key.substr(key.rfind('.') + 1);
    if (tensor.dim() >= 2) {
      const double bound = std::sqrt(6.0 / (static_cast<double>(tensor.numel()) / static_cast<double>(tensor.size(0))));
      fill(tensor, t, 2 * bound, -bound);
    } else if (name == "weight") {
      fill(tensor, t, 0.6, 0.7);
    } else if (name == "bias") {
      fill(tensor, t, 0.4, -0.2);
    } else if (name == "running_mean") {
      fill(tensor, t, 0.2, -0.1);
    } else if (name == "running_var") {
      fill(tensor, t, 1, 0.5);
    } else if (name != "num_batches_tracked") {
      throw std::invalid_argument("no rule fills the tensor " + key);
    }
  }
}

// ---- The network ------------------------------------------------------------------------------------------------

struct Built {
  std::shared_ptr<torch::nn::Module> module;
  std::function<Tensor(Tensor)> forward;
};

models::Dilation to_dilation(const json& value) {
  if (value.is_null()) return int64_t{1};
  if (value.is_boolean()) return value.get<bool>();
  if (value.is_number_integer()) return value.get<int64_t>();
  std::vector<models::ModuleDilation> modules;
  for (const json& entry : value) {
    if (entry.is_array()) {
      modules.emplace_back(entry.get<std::vector<int64_t>>());
    } else {
      modules.emplace_back(entry.get<int64_t>());
    }
  }
  return modules;
}

void set_norm(models::NormOptions& options, const std::string& norm_mode) {
  options.norm_mode = norm_mode;
  options.activation = "leaky_relu";
  options.activation_param = 0.01;
}

[[noreturn]] void unknown_argument(const std::string& key, const json& value) {
  throw std::invalid_argument("unknown argument \"" + key + "\": " + value.dump());
}

Built build_head(const json& arguments, const std::string& norm_mode) {
  models::DeepLabV3Options options;
  set_norm(options, norm_mode);
  for (const auto& [key, value] : arguments.items()) {
    if (key == "in_channels") {
      options.in_channels = value.get<int64_t>();
    } else if (key == "out_channels") {
      options.out_channels = value.get<int64_t>();
    } else if (key == "hidden_channels") {
      options.hidden_channels = value.get<int64_t>();
    } else if (key == "dilations") {
      options.dilations = value.get<std::vector<int64_t>>();
    } else if (key != "pooling_size") {
      unknown_argument(key, value);
    } else if (value.is_number_integer()) {
      options.pooling_size = {value.get<int64_t>(), value.get<int64_t>()};
    } else if (!value.is_null()) {
      options.pooling_size = value.get<std::array<int64_t, 2>>();
    }
  }
  auto head = std::make_shared<models::DeepLabV3>(options);
  return {head, [head](Tensor x) { return head->forward(std::move(x)); }};
}

Built build(const std::string& name, const json& arguments, const std::string& norm_mode) {
  if (name == "deeplab_v3") return build_head(arguments, norm_mode);
  models::NetworkOptions options;
  set_norm(options, norm_mode);
  options.classes = 0;  // unless given
  for (const auto& [key, value] : arguments.items()) {
    if (key == "classes") {
      options.classes = value.get<int64_t>();
    } else if (key == "input_3x3") {
      options.input_3x3 = value.get<bool>();
    } else if (key == "dilation") {
      options.dilation = to_dilation(value);
    } else {
      unknown_argument(key, value);
    }
  }
  auto network = models::make_network(name, options);
  return {network, [network](Tensor x) { return network->forward(std::move(x)); }};
}

// ---- The comparison ---------------------------------------------------------------------------------------------

class Comparison {
 public:
  void fail(const std::string& text) { result.mismatches.push_back(text); }

  void numbers(const std::string& what, const Tensor& tensor, const json& golden) {
    if (json(tensor.sizes().vec()) != golden.at("shape")) {
      return fail(what + ": shape " + json(tensor.sizes().vec()).dump() + ", expected " + golden.at("shape").dump());
    }
    const Tensor flat = tensor.detach().to(torch::kDouble).contiguous().flatten();
    const double max_abs = golden.at("max_abs").get<double>(), abs_sum = golden.at("abs_sum").get<double>();
    const json& first = golden.at("first");
    for (size_t i = 0; i < first.size(); ++i) {
      number(what + "[" + std::to_string(i) + "]", flat[static_cast<int64_t>(i)].item<double>(), first[i], max_abs);
    }
    number(what + ", largest", flat.abs().max().item<double>(), golden.at("max_abs"), max_abs);
    // Errors add up like the values themselves.
    number(what + ", sum", flat.sum().item<double>(), golden.at("sum"), abs_sum);
    number(what + ", sum of magnitudes", flat.abs().sum().item<double>(), golden.at("abs_sum"), abs_sum);
  }

  GoldenResult result;

 private:
  void number(const std::string& what, double actual, const json& golden, double scale) {
    const double expected = golden.get<double>(), difference = std::abs(actual - expected);
    const double relative = difference == 0 ? 0 : difference / scale;
    if (!(relative <= result.largest)) result.largest = relative;
    if (relative <= kTolerance) return;
    char text[160];
    std::snprintf(text, sizeof text, ": %.17g, expected %.17g (%.1e of the largest value)", actual, expected, relative);
    fail(what + text);
  }
};

bool same_keys(const State& state, const json& keys, Comparison& comparison) {
  for (size_t i = 0; i < std::max(state.size(), keys.size()); ++i) {
    const std::string actual =
        i < state.size() ? json({state[i].first, state[i].second.sizes().vec()}).dump() : "nothing";
    const std::string expected = i < keys.size() ? keys[i].dump() : "nothing";
    if (actual == expected) continue;
    comparison.fail("state dict, entry " + std::to_string(i) + ": " + actual + ", expected " + expected);
    return false;  // the rest would only be shifted
  }
  return true;
}

Tensor find(const State& state, const std::string& key) {
  for (const auto& [name, tensor] : state) {
    if (name == key) return tensor;
  }
  throw std::invalid_argument("the state dict has no " + key);
}

}  // namespace

GoldenResult check_golden_case(const json& golden, const std::string& norm_mode) {
  Comparison comparison;
  const Built network = build(golden.at("name"), golden.value("arguments", json::object()), norm_mode);
  network.module->to(torch::kDouble);
  const State state = nn::state_dict(*network.module);
  if (!same_keys(state, golden.at("keys"), comparison)) return comparison.result;
  int64_t parameters = 0;
  for (const Tensor& parameter : network.module->parameters()) parameters += parameter.numel();
  if (parameters != golden.at("parameters").get<int64_t>()) {
    comparison.fail(std::to_string(parameters) + " parameters, expected " + golden.at("parameters").dump());
  }
  fill_state(state);
  for (const auto& module : network.module->modules()) {
    if (auto* dropout = module->as<torch::nn::Dropout2dImpl>()) dropout->options.p(0);
  }

  const Tensor x = torch::empty(golden.at("input_shape").get<std::vector<int64_t>>(), torch::kDouble);
  fill(x, 1000000, 2 * std::sqrt(3.0), -std::sqrt(3.0));
  network.module->eval();
  {
    const torch::NoGradGuard no_grad;
    comparison.numbers("eval_output", network.forward(x), golden.at("eval_output"));
  }
  network.module->train();
  const Tensor output = network.forward(x);
  comparison.numbers("train_output", output, golden.at("train_output"));
  const Tensor weights = torch::empty(output.sizes(), torch::kDouble);
  fill(weights, 1000001, 2, -1);
  (output * weights).sum().backward();
  for (const auto& [key, numbers] : golden.at("train_gradients").items()) {
    comparison.numbers("gradient of " + key, find(state, key).grad(), numbers);
  }
  for (const auto& [key, numbers] : golden.at("train_buffers").items()) {
    comparison.numbers(key, find(state, key), numbers);
  }
  return comparison.result;
}

}  // namespace iabn::test
