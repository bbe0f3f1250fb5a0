#pragma once

// safetensors: 8 bytes of header length, a JSON header with dtype, shape and place of each tensor, the data.

#include <string>
#include <utility>
#include <vector>

#include "iabn/io/value.h"

namespace iabn::io {

struct SafetensorsFile {
  std::vector<std::pair<std::string, Tensor>> tensors;  // in the header's order
  std::vector<std::pair<std::string, std::string>> metadata;
};

/// The tensors refer to `file`, which `owner` keeps alive. Throws CheckpointError where the header is not what the
/// format says: every byte of the data must belong to exactly one tensor, no name may appear twice.
SafetensorsFile read_safetensors(ByteSpan file, const std::shared_ptr<const void>& owner);

/// A file in memory. The format knows neither views nor sharing: each tensor is written in row-major order, on its own.
/// Throws CheckpointError where two tensors have one name.
std::string safetensors_bytes(const SafetensorsFile& file);

/// The first bytes can be those of a safetensors file and of no other kind that is read here.
bool looks_like_safetensors(ByteSpan file);

}  // namespace iabn::io
