// The zip format: NAME/data.pkl holds the values, NAME/data/KEY the bytes of each storage.

#include <algorithm>
#include <map>

#include "iabn/io/budget.h"
#include "iabn/io/pickle.h"
#include "iabn/io/pytorch.h"
#include "iabn/io/text.h"
#include "iabn/io/zip.h"

namespace iabn::io {
namespace {

class Archive {
 public:
  explicit Archive(ByteSpan file) : records_(read_zip(file)) {
    for (const ZipRecord& record : records_) by_name_.emplace(record.name, &record);
    constexpr std::string_view kPickle = "/data.pkl";
    for (const ZipRecord& record : records_) {
      const std::string& name = record.name;
      if (name.ends_with(kPickle) && name.find('/') == name.size() - kPickle.size()) {
        prefix_ = name.substr(0, name.size() - kPickle.size() + 1);
        return;
      }
    }
    throw CheckpointError("a zip file without a data.pkl is not a file of torch.save");
  }

  bool has(const std::string& name) const { return by_name_.count(prefix_ + name) > 0; }

  /// Null where there is none.
  const ZipRecord* find(const std::string& name) const {
    const auto found = by_name_.find(prefix_ + name);
    if (found == by_name_.end()) return nullptr;
    if (!found->second->stored) {
      throw CheckpointError(
          "the zip file is compressed, which torch.save never does: unpack it and pack it with zip -0");
    }
    return found->second;
  }
  const std::vector<ZipRecord>& records() const { return records_; }

 private:
  std::vector<ZipRecord> records_;
  std::map<std::string, const ZipRecord*> by_name_;
  std::string prefix_;
};

void check_kind(const Archive& archive) {
  if (archive.has("constants.pkl")) {
    throw CheckpointError(
        "it is a TorchScript archive (of torch.jit.save, or torch::save in C++), not a file of torch.save: load it "
        "there "
        "and save its state_dict()");
  }
  const ZipRecord* order = archive.find("byteorder");
  if (order == nullptr) return;
  const std::string text(order->bytes.begin(), order->bytes.end());
  if (text != "little") throw CheckpointError("its byte order is \"" + printable(text, 20) + "\", only little is read");
}

}  // namespace

PyTorchFile read_pytorch_zip(ByteSpan file, const std::shared_ptr<const void>& owner) {
  const Archive archive(file);
  check_kind(archive);
  ByteReader reader(archive.find("data.pkl")->bytes);
  Unpickled unpickled = read_pickle(reader);
  if (reader.left() > 0) throw CheckpointError("bytes follow the pickle in data.pkl");
  for (PickledStorage& pickled : unpickled.storages) {
    const ZipRecord* record = archive.find("data/" + pickled.key);
    if (record == nullptr && pickled.bytes_claimed > 0) {
      throw CheckpointError("the record of storage " + printable(pickled.key) + " is missing");
    }
    Unpickled::bind(pickled, record != nullptr ? record->bytes : ByteSpan(), owner);
  }
  check_expansion(unpickled.root, file.size());
  PyTorchFile result{std::move(unpickled.root), {}};
  for (const ZipRecord& record : archive.records()) {
    if (!has_right_checksum(record)) result.suspicious_records.push_back(record.name);
  }
  return result;
}

}  // namespace iabn::io
