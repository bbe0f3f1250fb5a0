#pragma once

// The networks by name: one literal table (registry.cpp).

#include <memory>
#include <string>
#include <vector>

namespace iabn::models {

class Network;          // network.h
struct NetworkOptions;  // network.h

/// All names, in the table's order.
std::vector<std::string> network_names();

/// The network called `name` with LibTorch's default weights (see weight_init.h). Throws std::invalid_argument that
/// lists the names and the nearest one where `name` is unknown.
std::shared_ptr<Network> make_network(const std::string& name, const NetworkOptions& options);

}  // namespace iabn::models
