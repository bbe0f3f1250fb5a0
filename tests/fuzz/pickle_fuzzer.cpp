// The pickle reader alone: each storage gets as many bytes as the pickle says, up to what a file could hold.

#include "iabn/io/budget.h"
#include "iabn/io/error.h"
#include "iabn/io/pickle.h"
#include "tests/fuzz/exercise.h"

namespace {

using namespace iabn::io;

Checkpoint parse(ByteSpan bytes, const std::shared_ptr<const void>&) {
  constexpr size_t kLargest = 1 << 12;
  static const auto memory = std::make_shared<const std::vector<uint8_t>>(kLargest, uint8_t{0x3f});
  ByteReader reader(bytes);
  Unpickled unpickled = read_pickle(reader);
  for (PickledStorage& storage : unpickled.storages) Unpickled::bind(storage, ByteSpan(*memory), memory);
  check_expansion(unpickled.root, kLargest);
  Checkpoint result;
  result.root = std::move(unpickled.root);
  return result;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) { return fuzz::exercise(data, size, parse); }
