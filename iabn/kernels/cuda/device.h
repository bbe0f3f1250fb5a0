#pragma once

// What plans want to know of a device.

namespace iabn::kernels::cuda {

struct Device {
  int multiprocessors = 0;
  /// It runs the slab and the cluster kernels: compute capability 9.0, and compiled for it.
  bool supported = false;
};

/// The current device. Attributes are asked once: a plan is made several times per call.
Device current_device();

}  // namespace iabn::kernels::cuda
