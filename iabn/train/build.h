#pragma once

// From a configuration to a network.

#include <memory>

#include <c10/core/Device.h>

#include "iabn/models/network.h"
#include "iabn/train/config.h"

namespace iabn::train {

/// Seeds LibTorch's generators with config.seed, builds the network, draws its weights on the CPU (so that they do not
/// depend on the device) and moves it.
std::shared_ptr<models::Network> build_network(const Config& config, c10::Device device);

}  // namespace iabn::train
