#include <caffe2/serialize/inline_container.h>

#include "iabn/io/pickle.h"
#include "iabn/io/pytorch.h"

namespace iabn::io {

std::string pytorch_bytes(const Value& root) {
  const Pickled pickled = write_pickle(root);
  std::string file;
  caffe2::serialize::PyTorchStreamWriter writer([&file](const void* data, size_t size) {
    file.append(static_cast<const char*>(data), size);
    return size;
  });
  writer.writeRecord("data.pkl", pickled.bytes.data(), pickled.bytes.size());
  writer.writeRecord("byteorder", "little", 6);
  for (size_t i = 0; i < pickled.storages.size(); ++i) {
    const ByteSpan bytes = pickled.storages[i]->bytes;
    writer.writeRecord("data/" + std::to_string(i), bytes.data(), bytes.size());
  }
  writer.writeEndOfFile();
  return file;
}

}  // namespace iabn::io
