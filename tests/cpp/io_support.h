#pragma once

// Files for the tests of the checkpoint readers, put together byte by byte.

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "iabn/io/checkpoint.h"

namespace iabn::io::test {

/// Little-endian bytes of a number.
template <class T>
std::string le(T value) {
  return {reinterpret_cast<const char*>(&value), sizeof value};
}

/// BINUNICODE.
std::string text(const std::string& value);
/// GLOBAL.
std::string global(const std::string& module, const std::string& name);
/// A pickle of protocol 2 with this body.
std::string pickle(const std::string& body);

/// The persistent id and load of a storage of `type` ("FloatStorage").
std::string storage(const std::string& type, const std::string& key, int32_t numel, const std::string& view = "");
/// A call of _rebuild_tensor_v2 on `storage`; the numbers as pickled integers.
std::string tensor(const std::string& storage, const std::string& offset, const std::string& sizes,
                   const std::string& strides);
/// BININT; LONG1 for larger ones.
std::string integer(int64_t value);
std::string tuple(const std::vector<int64_t>& values);

struct Record {
  std::string name, data;
};
/// A zip file of stored records; `zip64` uses the 64-bit forms.
std::string zip(const std::vector<Record>& records, bool zip64 = false);
/// A file of torch.save: data.pkl with this pickle and the storages.
std::string pytorch_zip(const std::string& pickle, const std::vector<std::string>& storages);
/// A file of the old format: keys "0", "1", ...; numel of each storage as given.
std::string pytorch_legacy(const std::string& pickle, const std::vector<std::pair<int64_t, std::string>>& storages,
                           bool little_endian = true);
std::string safetensors(const std::string& header, const std::string& data);

/// Parses a copy of exactly these bytes, so that a sanitizer sees a step beyond them.
Checkpoint parse(const std::string& bytes);
/// The text of the CheckpointError that parse throws, or "" where it throws none.
std::string error_of(const std::string& bytes);

/// Floats of a tensor in row-major order.
std::vector<float> floats(const Tensor& tensor);

}  // namespace iabn::io::test
