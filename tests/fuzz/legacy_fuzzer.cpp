// PyTorch's format before the zip files.

#include "iabn/io/pytorch.h"
#include "tests/fuzz/exercise.h"

namespace {

using namespace iabn::io;

Checkpoint parse(ByteSpan bytes, const std::shared_ptr<const void>& owner) {
  Checkpoint result;
  result.root = read_pytorch_legacy(bytes, owner).root;
  return result;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) { return fuzz::exercise(data, size, parse); }
