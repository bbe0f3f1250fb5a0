#pragma once

// The layers of whole networks that `iabn bench layer --table` measures, as benchmarks/layers.csv lists them.

#include <cstdint>
#include <string>
#include <vector>

namespace iabn::cli {

struct TableRow {
  std::string shape;
  int64_t count = 0;  // layers of this shape
};

struct NetworkLayers {
  std::string name;
  std::vector<TableRow> rows;
};

/// Reads a file of the columns network,shape,count; a line that begins with # is a comment. `names` chooses networks
/// and their order; empty: all, as in the file. Throws train::FileError for a file that is not such a table (with the
/// line), std::invalid_argument for a name that is not in it.
std::vector<NetworkLayers> read_layer_table(const std::string& path, const std::vector<std::string>& names);

/// Every shape once, in order of appearance.
std::vector<std::string> distinct_shapes(const std::vector<NetworkLayers>& networks);

}  // namespace iabn::cli
