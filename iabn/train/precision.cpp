#include "iabn/train/precision.h"

#include <stdexcept>

#include <ATen/ATen.h>

namespace iabn::train {

at::ScalarType precision_dtype(const std::string& precision) {
  if (precision == "float32") return at::kFloat;
  if (precision == "bf16") return at::kBFloat16;
  if (precision == "fp16") return at::kHalf;
  throw std::invalid_argument("precision must be float32, bf16 or fp16, got \"" + precision + "\"");
}

LossScaler::LossScaler(c10::Device device)
    : scale_(at::full({}, 65536.0, at::TensorOptions(at::kFloat).device(device))),
      growth_tracker_(at::zeros({}, at::TensorOptions(at::kInt).device(device))),
      found_inf_(at::zeros({}, at::TensorOptions(at::kFloat).device(device))) {}

const at::Tensor& LossScaler::unscale(const std::vector<at::Tensor>& gradients) {
  found_inf_.zero_();
  at::_amp_foreach_non_finite_check_and_unscale_(gradients, found_inf_, scale_.reciprocal());
  return found_inf_;
}

void LossScaler::update() {
  at::_amp_update_scale_(scale_, growth_tracker_, found_inf_, /*scale_growth_factor=*/2.0,
                         /*scale_backoff_factor=*/0.5, /*growth_interval=*/2000);
}

at::Tensor LossScaler::state() const { return at::stack({scale_, growth_tracker_.to(at::kFloat)}).cpu(); }

void LossScaler::load_state(const at::Tensor& state) {
  scale_.copy_(state.select(0, 0));
  growth_tracker_.copy_(state.select(0, 1));
}

}  // namespace iabn::train
