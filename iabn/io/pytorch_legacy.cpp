// The format before PyTorch 1.6, one after the other: a pickled magic number, a pickled version, a pickled dict about
// the machine, the pickled values, a pickled list of storage keys; then for each key the number of elements and the
// bytes.

#include <algorithm>
#include <map>

#include "iabn/io/budget.h"
#include "iabn/io/pickle.h"
#include "iabn/io/pytorch.h"
#include "iabn/io/text.h"

namespace iabn::io {
namespace {

// 0x1950a86a20f9469cfc6c
constexpr std::string_view kMagic("\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19", 10);
constexpr int64_t kVersion = 1001;

void check_machine(const Value& info) {
  const Value* little = info.find("little_endian");
  const bool* is_little = little != nullptr ? little->as<bool>() : nullptr;
  if (is_little == nullptr) throw CheckpointError("the file does not say its byte order");
  if (!*is_little) throw CheckpointError("its byte order is big-endian, only little is read");
}

void read_storages(ByteReader& reader, const Value& keys, std::vector<PickledStorage>& storages,
                   const std::shared_ptr<const void>& owner) {
  const List* list = keys.as<List>();
  if (list == nullptr) throw CheckpointError("the list of storages is not a list");
  std::map<std::string, PickledStorage*> missing;
  for (PickledStorage& storage : storages) missing.emplace(storage.key, &storage);
  for (const Value& item : list->items) {
    const std::string* key = item.as<std::string>();
    const auto found = key != nullptr ? missing.find(*key) : missing.end();
    if (found == missing.end()) throw CheckpointError("the list of storages names one twice, or one of no tensor");
    PickledStorage& storage = *found->second;
    const auto count = reader.number<int64_t>();
    if (count < 0 || static_cast<uint64_t>(count) != storage.bytes_claimed / storage.item_size) {
      throw CheckpointError("storage " + printable(storage.key) + " has " + std::to_string(count) +
                            " elements in the file, " + std::to_string(storage.bytes_claimed / storage.item_size) +
                            " in the pickle");
    }
    Unpickled::bind(storage, reader.take(storage.bytes_claimed), owner);
    missing.erase(found);
  }
  if (!missing.empty())
    throw CheckpointError("truncated: storage " + printable(missing.begin()->first) + " is missing");
}

}  // namespace

bool looks_like_pytorch_legacy(ByteSpan file) {
  const ByteSpan head = file.first(std::min<size_t>(file.size(), 40));
  return !file.empty() && file[0] == 0x80 &&
         std::search(head.begin(), head.end(), kMagic.begin(), kMagic.end(),
                     [](uint8_t a, char b) { return a == static_cast<uint8_t>(b); }) != head.end();
}

PyTorchFile read_pytorch_legacy(ByteSpan file, const std::shared_ptr<const void>& owner) {
  ByteReader reader(file);
  const Value magic = read_pickle(reader).root;
  if (const BigInt* number = magic.as<BigInt>(); number == nullptr || number->data != kMagic) {
    throw CheckpointError("it does not begin with PyTorch's magic number");
  }
  const Value version = read_pickle(reader).root;
  if (const int64_t* number = version.as<int64_t>(); number == nullptr || *number != kVersion) {
    throw CheckpointError("it has another version of the old format than 1001");
  }
  check_machine(read_pickle(reader).root);
  Unpickled unpickled = read_pickle(reader);
  const Value keys = read_pickle(reader).root;
  read_storages(reader, keys, unpickled.storages, owner);
  check_expansion(unpickled.root, file.size());
  return {std::move(unpickled.root), {}};
}

}  // namespace iabn::io
