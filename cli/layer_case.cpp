#include "cli/layer_case.h"

#include <algorithm>
#include <charconv>
#include <functional>
#include <stdexcept>

#include <ATen/ATen.h>
#include <torch/csrc/autograd/autograd.h>

#include "iabn/nn/functional.h"
#include "iabn/train/memory_meter.h"

namespace iabn::cli {
namespace {

// Bytes of the buffers of one kind in a round: more than most last-level caches, so that no pass finds its input there.
// Capped, or else small tensors would take long: 16 of less than 8 MiB are fewer bytes, and may be found in a cache.
constexpr int64_t kRotateBytes = int64_t{128} << 20;
constexpr int64_t kMaxBuffers = 16;

std::vector<int64_t> required_shape(const std::string& text) {
  if (auto sizes = parse_shape(text)) return *std::move(sizes);
  throw std::invalid_argument("--shapes: \"" + text + "\" is not a shape such as 32x64x56x56");
}

c10::ScalarType parse_dtype(const std::string& text) {
  if (text == "float32") return at::kFloat;
  if (text == "float64") return at::kDouble;
  if (text == "bfloat16") return at::kBFloat16;
  if (text == "float16") return at::kHalf;
  throw std::invalid_argument("--dtypes: must be float32, float64, bfloat16 or float16, got \"" + text + "\"");
}

c10::MemoryFormat parse_layout(const std::string& text, size_t dimensions) {
  if (text == "contiguous") return c10::MemoryFormat::Contiguous;
  if (text != "channels_last") {
    throw std::invalid_argument("--layouts: must be contiguous or channels_last, got \"" + text + "\"");
  }
  if (dimensions == 4) return c10::MemoryFormat::ChannelsLast;
  if (dimensions == 5) return c10::MemoryFormat::ChannelsLast3d;
  throw std::invalid_argument("--layouts: channels_last needs shapes of 4 or 5 dimensions");
}

}  // namespace

std::optional<std::vector<int64_t>> parse_shape(const std::string& text) {
  std::vector<int64_t> sizes;
  const char* end = text.data() + text.size();
  for (const char* at = text.data(); at < end; ++at) {  // steps over the x
    int64_t size = 0;
    const auto [next, error] = std::from_chars(at, end, size);
    if (error != std::errc() || size < 1 || (next != end && *next != 'x')) break;
    sizes.push_back(size);
    at = next;
    if (next == end && sizes.size() >= 2) return sizes;
  }
  return std::nullopt;
}

// Weight near 1 and bias near 0, as in training.
struct LayerCase::Parameters {
  at::Tensor weight, bias, running_mean, running_var, count;

  Parameters(int64_t channels, c10::ScalarType type, c10::Device device) {
    const auto options = at::TensorOptions(type == at::kDouble ? at::kDouble : at::kFloat).device(device);
    weight = (at::rand({channels}, options) + 0.5).requires_grad_();
    bias = (at::rand({channels}, options) - 0.5).requires_grad_();
    running_mean = at::zeros({channels}, options);
    running_var = at::ones({channels}, options);
    count = at::zeros({}, options.dtype(at::kLong));
  }
};

void LayerTimes::append(const LayerTimes& other) {
  forward.insert(forward.end(), other.forward.begin(), other.forward.end());
  backward.insert(backward.end(), other.backward.begin(), other.backward.end());
}

std::vector<double> LayerTimes::both() const {
  std::vector<double> sum = forward;
  for (size_t i = 0; i < sum.size(); ++i) sum[i] += backward[i];
  return sum;
}

LayerCase::LayerCase(std::string shape_text, std::string dtype_text, std::string layout_text, c10::Device device,
                     const std::string& activation, double activation_param)
    : shape(std::move(shape_text)),
      dtype(std::move(dtype_text)),
      layout(std::move(layout_text)),
      sizes_(required_shape(shape)),
      scalar_type_(parse_dtype(dtype)),
      format_(parse_layout(layout, sizes_.size())),
      device_(device),
      activation_(nn::parse_activation(activation, activation_param)) {}

int64_t LayerCase::bytes() const {
  int64_t count = static_cast<int64_t>(c10::elementSize(scalar_type_));
  for (const int64_t size : sizes_) count *= size;
  return count;
}

at::Tensor LayerCase::random_tensor() const {
  // Made in float32: a CPU draws bfloat16 numbers slowly.
  return at::randn(sizes_, at::TensorOptions(at::kFloat).device(device_)).to(scalar_type_).contiguous(format_);
}

at::Tensor LayerCase::forward(bool ours, at::Tensor x, Parameters& parameters) const {
  constexpr double kMomentum = 0.1, kEps = 1e-5;
  if (ours) {
    nn::InPlaceABNFuncOptions options;
    options.activation = activation_;
    return nn::inplace_abn(std::move(x), parameters.weight, parameters.bias, parameters.running_mean,
                           parameters.running_var, parameters.count, options);
  }
  at::Tensor y = at::batch_norm(x, parameters.weight, parameters.bias, parameters.running_mean, parameters.running_var,
                                /*training=*/true, kMomentum, kEps, /*cudnn_enabled=*/true);
  if (activation_.kind == Activation::kLeakyReLU) return at::leaky_relu_(y, activation_.param);
  return activation_.kind == Activation::kELU ? at::elu_(y, activation_.param) : y;
}

LayerTimes LayerCase::measure(bool ours, HeadStart& head_start) const {
  constexpr int kMostCopies = 64;  // 13 ms per action
  for (;; head_start.copies *= 2) {
    LayerTimes times = measure_once(ours, head_start);
    if (head_start.sufficed || head_start.copies >= kMostCopies) return times;
  }
}

LayerTimes LayerCase::measure_once(bool ours, HeadStart& head_start) const {
  const auto count = static_cast<size_t>(std::clamp<int64_t>(kRotateBytes / bytes() + 1, 2, kMaxBuffers));
  Parameters parameters(sizes_[1], scalar_type_, device_);
  std::vector<at::Tensor> leaves, inputs, outputs(count), d_outputs;
  for (size_t i = 0; i < count; ++i) {
    leaves.push_back(random_tensor().requires_grad_());
    inputs.push_back(leaves.back().clone());  // what a layer may overwrite; cloning is the restoring
    d_outputs.push_back(random_tensor());
  }
  std::vector<std::function<void()>> forwards, backwards;
  for (size_t i = 0; i < count; ++i) {
    forwards.emplace_back([&, i] { outputs[i] = forward(ours, std::move(inputs[i]), parameters); });
    backwards.emplace_back([&, i] {
      const auto gradients =
          torch::autograd::grad({outputs[i]}, {leaves[i], parameters.weight, parameters.bias}, {d_outputs[i]});
      outputs[i].reset();
    });
  }
  LayerTimes times;
  times.forward = time_each(device_, forwards, &head_start);
  const bool forward_sufficed = head_start.sufficed;
  times.backward = time_each(device_, backwards, &head_start);
  head_start.sufficed &= forward_sufficed;
  return times;
}

LayerMemory LayerCase::memory(bool ours) const {
  train::MemoryMeter meter(device_);
  Parameters parameters(sizes_[1], scalar_type_, device_);
  const at::Tensor leaf = random_tensor().requires_grad_();
  const at::Tensor d_output = random_tensor();
  const auto unit = static_cast<double>(bytes());
  LayerMemory memory;
  const int64_t start = meter.current();
  at::Tensor x = leaf.clone();
  at::Tensor z = forward(ours, std::move(x), parameters);
  const int64_t before = meter.current();
  memory.held = static_cast<double>(before - start) / unit;
  meter.reset_peak();
  const auto gradients = torch::autograd::grad({z}, {leaf, parameters.weight, parameters.bias}, {d_output});
  memory.backward_peak = static_cast<double>(meter.peak() - before) / unit;
  return memory;
}

}  // namespace iabn::cli
