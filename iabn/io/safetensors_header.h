#pragma once

// The JSON header of a safetensors file. Internal to safetensors_*.cpp.

#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

namespace iabn::io {

struct HeaderEntry {
  std::string name, dtype;
  std::vector<uint64_t> shape, offsets;
  bool has_dtype = false, has_shape = false, has_offsets = false;
};
struct Header {
  std::vector<HeaderEntry> entries;
  std::vector<std::pair<std::string, std::string>> metadata;
};

/// Throws CheckpointError for anything but {NAME: {"dtype": text, "shape": [...], "data_offsets": [...]}, ...,
/// "__metadata__": {text: text}}; a key that appears twice is an error, too.
Header parse_safetensors_header(std::string_view json);

}  // namespace iabn::io
