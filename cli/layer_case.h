#pragma once

// One shape, dtype and layout of `iabn bench layer`: the tensors, and both variants of the layer on them.

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include "cli/bench_support.h"
#include "iabn/activation.h"

namespace iabn::cli {

/// Milliseconds, one entry per buffer and round.
struct LayerTimes {
  std::vector<double> forward, backward;

  void append(const LayerTimes& other);
  std::vector<double> both() const;
};

/// In units of one tensor of the case's shape.
struct LayerMemory {
  double held = 0;           // after forward, the input's own storage included
  double backward_peak = 0;  // beyond what backward finds: z, d_z, and x where it is kept
};

/// The sizes in a text such as 32x64x56x56, two or more; nothing where it is no such text.
std::optional<std::vector<int64_t>> parse_shape(const std::string& text);

class LayerCase {
 public:
  /// Throws std::invalid_argument for a text that is no shape, dtype or layout.
  LayerCase(std::string shape, std::string dtype, std::string layout, c10::Device device, const std::string& activation,
            double activation_param);

  /// One round over 2 to 16 buffers, 128 MiB of each kind where 16 suffice (tensors of 8 MiB and more): those exceed
  /// the caches, 16 smaller tensors may lie in them. Inputs are prepared outside the timed regions. Repeated with a
  /// longer head start, from now on, where the host was late; no longer than 13 ms per call.
  LayerTimes measure(bool ours, HeadStart& head_start) const;
  LayerMemory memory(bool ours) const;
  int64_t bytes() const;  // of one tensor

  std::string shape, dtype, layout;

 private:
  struct Parameters;
  LayerTimes measure_once(bool ours, HeadStart& head_start) const;
  at::Tensor random_tensor() const;
  at::Tensor forward(bool ours, at::Tensor x, Parameters& parameters) const;

  std::vector<int64_t> sizes_;
  c10::ScalarType scalar_type_;
  c10::MemoryFormat format_;
  c10::Device device_;
  ActivationSpec activation_;
};

}  // namespace iabn::cli
