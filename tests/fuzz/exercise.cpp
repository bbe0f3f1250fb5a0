#include "tests/fuzz/exercise.h"

#include <cstdlib>

#include "iabn/io/error.h"
#include "iabn/io/finite.h"
#include "iabn/io/gamma.h"
#include "iabn/io/pickle.h"
#include "iabn/io/safetensors.h"
#include "iabn/io/visit.h"

namespace iabn::io::fuzz {
namespace {

void require(bool condition) {
  if (!condition) std::abort();
}

// Whatever was read can be written, and is then read as the same.
void write_and_read_again(const Value& root) {
  const Pickled first = write_pickle(root);
  ByteReader reader{ByteSpan(reinterpret_cast<const uint8_t*>(first.bytes.data()), first.bytes.size())};
  Unpickled again = read_pickle(reader);
  require(reader.left() == 0 && again.storages.size() == first.storages.size());
  for (size_t i = 0; i < again.storages.size(); ++i) {
    Unpickled::bind(again.storages[i], first.storages[i]->bytes, first.storages[i]->owner);
  }
  require(write_pickle(again.root).bytes == first.bytes);
}

void use(Checkpoint& checkpoint) {
  constexpr int64_t kSmall = 1 << 16;  // elements: larger ones would only take time
  bool small = true;
  for_each_tensor(checkpoint.root, [&](const std::string&, const Tensor& tensor) {
    small = small && tensor.numel() <= kSmall;
    if (tensor.numel() <= kSmall) count_non_finite(tensor);
  });
  write_and_read_again(checkpoint.root);
  if (!small) return;
  try {
    snapshot_info(checkpoint);
    const StateDict weights = state_dict(checkpoint.root);
    const std::string file = safetensors_bytes({weights.tensors, {}});
    const SafetensorsFile again =
        read_safetensors(ByteSpan(reinterpret_cast<const uint8_t*>(file.data()), file.size()), nullptr);
    require(again.tensors.size() == weights.tensors.size());
  } catch (const CheckpointError&) {  // no tensors, or keys that safetensors cannot hold
  }
  try {
    summarise_norms(checkpoint.root, kDefaultEps);
    convert_gamma(checkpoint.root, Gamma::kLegacy, Gamma::kSigned, kDefaultEps);
    convert_gamma(checkpoint.root, Gamma::kSigned, Gamma::kLegacy, kDefaultEps);
  } catch (const CheckpointError&) {  // norms of integers
  }
}

}  // namespace

int exercise(const uint8_t* data, size_t size, Parse parse) {
  // A copy of exactly this size: the address sanitizer sees a step beyond it.
  const auto owner = std::make_shared<const std::vector<uint8_t>>(data, data + size);
  std::optional<Checkpoint> checkpoint;
  try {
    checkpoint = parse(ByteSpan(*owner), owner);
  } catch (const CheckpointError&) {
    return 0;
  }
  use(*checkpoint);
  return 0;
}

}  // namespace iabn::io::fuzz
