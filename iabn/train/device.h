#pragma once

// Which device a program runs on.

#include <string>

#include <c10/core/Device.h>

namespace iabn::train {

/// True where iabn's operators have kernels for this kind of device in this process.
bool has_operators(c10::DeviceType type);

/// "auto" (the GPU if LibTorch sees one and the operators run on it, else the CPU), "cpu", "cuda" or "cuda:N". Throws
/// std::invalid_argument that says what is missing.
c10::Device choose_device(const std::string& name);

/// Waits until all work queued on the device is done.
void synchronize(c10::Device device);

}  // namespace iabn::train
