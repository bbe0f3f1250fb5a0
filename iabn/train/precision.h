#pragma once

// Mixed precision: autocast and loss scaling.

#include <string>
#include <vector>

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>
#include <c10/core/ScalarType.h>

#include "iabn/nn/autocast.h"

namespace iabn::train {

/// "float32", "bf16" or "fp16" of a configuration; throws std::invalid_argument otherwise.
at::ScalarType precision_dtype(const std::string& precision);

using nn::Autocast;

/// Dynamic loss scaling for fp16, with torch.amp.GradScaler's rule and defaults: 65536 at first, halved where a
/// gradient is not finite, doubled after 2000 steps without. All on the device.
class LossScaler {
 public:
  explicit LossScaler(c10::Device device);

  at::Tensor scale(const at::Tensor& loss) const { return loss * scale_; }
  /// Divides the gradients by the scale; returns 1.0 in a tensor [] where one of them is not finite, else 0.0.
  const at::Tensor& unscale(const std::vector<at::Tensor>& gradients);
  /// After the optimiser's step.
  void update();

  /// float32 [2]: scale, steps since it last changed; for snapshots.
  at::Tensor state() const;
  void load_state(const at::Tensor& state);

 private:
  at::Tensor scale_, growth_tracker_, found_inf_;
};

}  // namespace iabn::train
