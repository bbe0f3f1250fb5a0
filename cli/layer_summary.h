#pragma once

// What the measured shapes mean for a whole network: each weighed by the number of its layers.

#include <array>
#include <string>
#include <vector>

#include "cli/layer_table.h"

namespace iabn::cli {

/// Milliseconds of forward, backward and both.
using PassTimes = std::array<double, 3>;
inline constexpr std::array<const char*, 3> kPassNames = {"forward", "backward", "both"};

/// Medians of one shape, dtype and layout.
struct CaseTimes {
  std::string shape, dtype, layout;
  double pass_ms = 0;  // one pass: the tensor's bytes at the copy bandwidth
  PassTimes iabn{}, batch_norm{};
};

/// Prints, per dtype and layout, the time of all layers of `network`, and which of them take most of it. `cases` holds
/// every shape of the network in every dtype and layout that it holds at all.
void print_summary(const NetworkLayers& network, const std::vector<CaseTimes>& cases);

}  // namespace iabn::cli
