#include "cli/layer_table.h"

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <fstream>
#include <stdexcept>

#include "cli/layer_case.h"
#include "iabn/models/nearest.h"
#include "iabn/train/atomic_file.h"

namespace iabn::cli {
namespace {

constexpr const char* kHeader = "network,shape,count";

// The network of `name`, or the end of `networks`.
auto find_network(std::vector<NetworkLayers>& networks, const std::string& name) {
  return std::find_if(networks.begin(), networks.end(), [&](const NetworkLayers& one) { return one.name == name; });
}

// Adds a line such as resnet50,128x64x112x112,1; false where it is no such line.
bool add_row(const std::string& line, std::vector<NetworkLayers>& networks) {
  const size_t first = line.find(','), second = line.find(',', first + 1);
  if (first == 0 || first == std::string::npos || second == std::string::npos) return false;
  TableRow row{line.substr(first + 1, second - first - 1), 0};
  const char* end = line.data() + line.size();
  const auto [next, error] = std::from_chars(line.data() + second + 1, end, row.count);
  if (error != std::errc() || next != end || row.count < 1 || !parse_shape(row.shape)) return false;
  const std::string name = line.substr(0, first);
  auto network = find_network(networks, name);
  if (network == networks.end()) network = networks.insert(networks.end(), {name, {}});
  network->rows.push_back(std::move(row));
  return true;
}

std::vector<NetworkLayers> read_all(const std::string& path) {
  std::ifstream file(path);
  if (!file) throw train::FileError("--table: cannot read " + path + ": " + std::strerror(errno));
  std::vector<NetworkLayers> networks;
  bool header_seen = false;
  int number = 0;
  for (std::string line; std::getline(file, line);) {
    ++number;
    if (line.empty() || line[0] == '#') continue;
    const bool good = header_seen ? add_row(line, networks) : line == kHeader;
    if (!good) {
      const std::string expected = header_seen ? "a row such as resnet50,128x64x112x112,1" : kHeader;
      throw train::FileError(path + ":" + std::to_string(number) + ": expected " + expected + ", got \"" + line + "\"");
    }
    header_seen = true;
  }
  if (networks.empty()) throw train::FileError("--table: " + path + " has no rows");
  return networks;
}

}  // namespace

std::vector<NetworkLayers> read_layer_table(const std::string& path, const std::vector<std::string>& names) {
  std::vector<NetworkLayers> all = read_all(path);
  if (names.empty()) return all;
  std::vector<NetworkLayers> chosen;
  for (const auto& name : names) {
    const auto network = find_network(all, name);
    if (network == all.end()) {
      std::vector<std::string> known;
      for (const auto& one : all) known.push_back(one.name);
      throw std::invalid_argument("--networks: unknown network \"" + name + "\"" + did_you_mean(name, known) + "; " +
                                  path + " has " + join(known));
    }
    if (find_network(chosen, name) == chosen.end()) chosen.push_back(*network);
  }
  return chosen;
}

std::vector<std::string> distinct_shapes(const std::vector<NetworkLayers>& networks) {
  std::vector<std::string> shapes;
  for (const auto& network : networks) {
    for (const auto& row : network.rows) {
      if (std::find(shapes.begin(), shapes.end(), row.shape) == shapes.end()) shapes.push_back(row.shape);
    }
  }
  return shapes;
}

}  // namespace iabn::cli
