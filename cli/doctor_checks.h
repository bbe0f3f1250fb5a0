#pragma once

// The layer's self-test of `iabn doctor`.

#include <string>

#include <c10/core/Device.h>

namespace iabn::cli {

struct SelfTest {
  bool passed = false;
  std::string text;  // "largest error 3e-16", or what failed
};

/// Output and all gradients of the in-place layer in float64 against batch_norm + leaky_relu, on `device`.
SelfTest test_layer(c10::Device device);

}  // namespace iabn::cli
