#pragma once

// Python's pickle, as far as files of tensors need it. The reader is not a general one: it calls nothing and knows no
// classes but those that PyTorch writes for tensors, their storages, dtypes, sizes and devices, and
// collections.OrderedDict. Whatever else a pickle asks for is an error that names it.

#include <string>
#include <vector>

#include "iabn/io/byte_reader.h"
#include "iabn/io/value.h"

namespace iabn::io {

/// A storage that the pickle refers to. Whoever knows the file's layout sets its bytes; `bytes_claimed` is what the
/// pickle says and what the tensors were checked against.
struct PickledStorage {
  std::string key;
  size_t item_size = 1;
  size_t bytes_claimed = 0;
  std::shared_ptr<Storage> storage;
};

struct Unpickled {
  Value root;
  std::vector<PickledStorage> storages;  // in the order in which they appear

  /// Throws CheckpointError where the storage's bytes are fewer than claimed.
  static void bind(PickledStorage& pickled, ByteSpan bytes, const std::shared_ptr<const void>& owner);
};

/// Reads one pickle of protocol 2 to 5 and leaves `reader` behind it. Throws CheckpointError for anything malformed or
/// unknown. Memory stays within a multiple of the pickle's length, whatever it says: values are nested at most
/// kMaxPickleDepth deep, at most kMaxPickleValues in number, and repeated only a few times.
Unpickled read_pickle(ByteReader& reader);

inline constexpr int kMaxPickleDepth = 100;
inline constexpr size_t kMaxPickleValues = size_t{1} << 21;

/// A pickle of protocol 2 that torch.load(weights_only=True) reads, and the storages that it refers to, each once, by
/// the keys "0", "1", ... Equal trees give equal bytes.
struct Pickled {
  std::string bytes;
  std::vector<std::shared_ptr<const Storage>> storages;
};
Pickled write_pickle(const Value& root);

}  // namespace iabn::io
