// safetensors.

#include "tests/fuzz/exercise.h"

namespace {

using namespace iabn::io;

// Through the front door, which recognises the format.
Checkpoint parse(ByteSpan bytes, const std::shared_ptr<const void>& owner) { return parse_checkpoint(bytes, owner); }

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) { return fuzz::exercise(data, size, parse); }
