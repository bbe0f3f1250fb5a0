#pragma once

// The networks by name: one literal table (registry.cpp).

#include <memory>
#include <string>
#include <vector>

#include "iabn/models/dilation.h"

namespace iabn::models {

class Network;          // network.h
struct NetworkOptions;  // network.h

/// All names, in the table's order.
std::vector<std::string> network_names();

/// The network called `name` with LibTorch's default weights (see weight_init.h). Throws std::invalid_argument that
/// lists the names and the nearest one where `name` is unknown, and one that names the option and the network where it
/// cannot have that option.
std::shared_ptr<Network> make_network(const std::string& name, const NetworkOptions& options);

/// Why the network cannot have this dilation, or "": resnet* and densenet* take a number, or one number for each of the
/// 4 modules; resnext* one number for each block as well; wider_resnet*_a2 a switch, for which every list that is not
/// empty counts as on and 1 as off; the others 1. `name` must be known.
std::string dilation_error(const std::string& name, const Dilation& dilation);
/// Why the network cannot have a stem of 3x3 convolutions, or "".
std::string input_3x3_error(const std::string& name, bool input_3x3);
/// Whether NetworkOptions::width means something to the network.
bool has_width(const std::string& name);
/// Whether the network is one of wider_resnet*, _a2 included.
bool is_wider(const std::string& name);

}  // namespace iabn::models
