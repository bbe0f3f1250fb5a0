#pragma once

#include <cstddef>

#include "iabn/io/value.h"

namespace iabn::io {

/// Throws CheckpointError where the elements of all tensors together are many times what the file holds: a stride of 0
/// can make petabytes of one byte. Views and shared or expanded tensors of real checkpoints stay far below.
void check_expansion(const Value& root, size_t file_bytes);

}  // namespace iabn::io
