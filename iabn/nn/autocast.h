#pragma once

// PyTorch's autocast as a scope.

#include <c10/core/Device.h>
#include <c10/core/ScalarType.h>

namespace iabn::nn {

/// While one lives, convolutions and linear layers on `device` compute in `dtype` from float32 parameters, losses in
/// float32 (PyTorch's autocast lists). Does nothing for float32. Copies of weights that backward needs live on in its
/// graph.
class Autocast {
 public:
  Autocast(c10::Device device, at::ScalarType dtype);
  ~Autocast();
  Autocast(const Autocast&) = delete;
  Autocast& operator=(const Autocast&) = delete;

 private:
  c10::DeviceType device_;
  bool active_;
  bool enabled_before_ = false;
  at::ScalarType dtype_before_ = at::kFloat;
};

}  // namespace iabn::nn
