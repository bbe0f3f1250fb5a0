#pragma once

// What every harness does with a file that was read: all that the program does with it, and checks that must hold.

#include <cstdint>
#include <memory>
#include <vector>

#include "iabn/io/checkpoint.h"

namespace iabn::io::fuzz {

using Parse = Checkpoint (*)(ByteSpan, const std::shared_ptr<const void>&);

/// Parses the bytes and uses the result. CheckpointError is the only exception that may come; any other ends the
/// process, as do the sanitizers.
int exercise(const uint8_t* data, size_t size, Parse parse);

}  // namespace iabn::io::fuzz
