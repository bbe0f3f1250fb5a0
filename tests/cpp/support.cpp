#include "tests/cpp/support.h"

#include <torch/cuda.h>
#include <torch/utils.h>

#include <cstring>
#include <iostream>
#include <sstream>

namespace iabn::test {

using torch::Tensor;

namespace {

torch::Device& chosen_device() {
  static torch::Device chosen(torch::kCPU);
  return chosen;
}

bool has_channels_last(size_t dims) { return dims == 4 || dims == 5; }

torch::MemoryFormat channels_last(const Tensor& x) {
  return x.dim() == 4 ? torch::MemoryFormat::ChannelsLast : torch::MemoryFormat::ChannelsLast3d;
}

}  // namespace

torch::Device device() { return chosen_device(); }

std::string Case::name() const {
  std::ostringstream text;
  text << layout << "_" << activation << "_" << dtype;
  for (const int64_t size : shape) text << "_" << size;
  return text.str();
}

std::vector<Case> cases() {
  const std::vector<std::vector<int64_t>> shapes{
      {2, 3},          {7, 1},          {65, 257},        {2, 1, 5},         {3, 5, 7},
      {2, 31, 4, 4},   {2, 32, 7, 7},   {1, 33, 5, 3},    {4, 64, 14, 14},   {2, 8, 1, 1},
      {3, 16, 31, 33}, {2, 7, 3, 5, 2}, {1, 24, 2, 8, 8}, {2, 128, 1, 1, 3}, {9, 2, 64, 66},
      {3, 20000}};
  const std::vector<std::pair<std::string, double>> activations{
      {"leaky_relu", 0.01}, {"leaky_relu", 0.0078125}, {"elu", 1.0}, {"elu", 0.5}, {"identity", 0.0}};
  std::vector<Case> result;
  size_t turn = 0;
  for (const auto& shape : shapes) {
    for (const std::string layout : {"contiguous", "channels_last", "slice", "unaligned"}) {
      if (layout == "channels_last" && !has_channels_last(shape.size())) continue;
      for (const auto dtype : {torch::kFloat, torch::kDouble, torch::kBFloat16, torch::kHalf}) {
        // Each combination meets two of the activations in turn; all meet each dtype and layout.
        for (int i = 0; i < 2; ++i) {
          const auto& [activation, param] = activations[turn++ % activations.size()];
          result.push_back({shape, dtype, layout, activation, param});
        }
      }
    }
  }
  return result;
}

Tensor place(const Tensor& values, torch::Dtype dtype, const std::string& layout) {
  const Tensor x = values.to(device(), dtype, /*non_blocking=*/false, /*copy=*/true).contiguous();
  if (layout == "channels_last") return x.contiguous(channels_last(x));
  if (layout == "slice") {  // every second image of a larger batch, all but the first of its channels
    std::vector<int64_t> larger = x.sizes().vec();
    larger[0] *= 2;
    larger[1] += 1;
    Tensor view = torch::zeros(larger, x.options()).slice(0, 0, larger[0], 2).slice(1, 1);
    view.copy_(x);
    return view;
  }
  if (layout == "unaligned") {  // one element off every vector boundary
    Tensor view = torch::zeros(x.numel() + 1, x.options()).slice(0, 1).view(x.sizes());
    view.copy_(x);
    return view;
  }
  return x.clone();
}

Tensor random_input(const std::vector<int64_t>& shape, int64_t seed) {
  torch::manual_seed(seed);
  Tensor x = torch::randn(shape);
  const int64_t channels = shape[1];
  std::vector<int64_t> per_channel(shape.size(), 1);
  per_channel[1] = channels;
  const Tensor index = torch::arange(channels, torch::kFloat).reshape(per_channel);
  return x * (0.5 + 0.25 * index.remainder(5)) + (index.remainder(7) - 3) * 0.5;
}

Tensor reference(const Tensor& tensor) { return tensor.detach().to(torch::kCPU, torch::kDouble); }

void expect_close(const Tensor& actual_, const Tensor& expected, const Tensor& tolerance, const std::string& what) {
  const Tensor actual = reference(actual_);
  ASSERT_EQ(actual.sizes(), expected.sizes()) << what;
  const Tensor excess = ((actual - expected).abs() - tolerance).flatten();
  const Tensor bad = excess.isnan() | (excess > 0);
  if (!bad.any().item<bool>()) return;
  const int64_t worst =
      torch::where(excess.isnan(), torch::full_like(excess, INFINITY), excess).argmax().item<int64_t>();
  ADD_FAILURE() << what << ": " << bad.sum().item<int64_t>() << " of " << excess.numel() << " values are off; worst at "
                << worst << ": got " << actual.flatten()[worst].item<double>() << ", expected "
                << expected.flatten()[worst].item<double>() << " +- "
                << tolerance.expand_as(expected).flatten()[worst].item<double>();
}

std::string without_backtrace(const std::exception& error) {
  if (const auto* torch_error = dynamic_cast<const c10::Error*>(&error)) return torch_error->what_without_backtrace();
  return error.what();
}

}  // namespace iabn::test

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--device") == 0 && i + 1 < argc) {
      iabn::test::chosen_device() = torch::Device(argv[++i]);
    } else {
      std::cerr << argv[0] << ": unknown argument " << argv[i] << "; use --device cpu|cuda\n";
      return 2;
    }
  }
  if (iabn::test::device().is_cuda() && !torch::cuda::is_available()) {
    std::cerr << argv[0] << ": --device cuda, but no CUDA device is available\n";
    return 1;
  }
  return RUN_ALL_TESTS();
}
