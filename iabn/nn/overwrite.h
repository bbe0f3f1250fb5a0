#pragma once

// What the in-place functions check before they overwrite x. Internal.

#include <optional>

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <c10/core/InferenceMode.h>
#include <torch/csrc/autograd/VariableTypeUtils.h>

namespace iabn::nn {

inline std::optional<at::Tensor> optional(const at::Tensor& tensor) {
  return tensor.defined() ? std::optional<at::Tensor>(tensor) : std::nullopt;
}

inline bool needs_grad(const at::Tensor& tensor) { return tensor.defined() && tensor.requires_grad(); }

/// True where a call with these has to be recorded for backward.
inline bool wants_gradients(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
  return at::GradMode::is_enabled() && (needs_grad(x) || needs_grad(weight) || needs_grad(bias));
}

/// Everything that would make PyTorch refuse the overwrite, before anything is written.
inline void check_overwrite(const at::Tensor& x, bool gradients) {
  torch::autograd::check_inplace(x, gradients);
  TORCH_CHECK(!x.is_inference() || c10::InferenceMode::is_enabled(),
              "inplace_abn: x is an inference tensor and may not be overwritten outside InferenceMode: pass x.clone()");
}

/// What backward keeps of x: a view's node would be kept alive by its own saved output, so of a view its memory (and
/// version counter) without history.
inline at::Tensor saved_output(const at::Tensor& x) { return x.is_view() ? x.tensor_data() : x; }

inline constexpr const char* kNoDoubleBackward =
    "inplace_abn: double backward is not supported: call backward without create_graph=True, or use ABN (BatchNorm, "
    "then the activation, not in place)";

}  // namespace iabn::nn
