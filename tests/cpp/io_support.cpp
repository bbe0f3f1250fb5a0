#include "tests/cpp/io_support.h"

#include <cstring>
#include <limits>

#include <zlib.h>

#include "iabn/io/error.h"

namespace iabn::io::test {

std::string text(const std::string& value) { return "X" + le(static_cast<uint32_t>(value.size())) + value; }

std::string global(const std::string& module, const std::string& name) { return "c" + module + "\n" + name + "\n"; }

std::string pickle(const std::string& body) { return "\x80\x02" + body + "."; }

std::string integer(int64_t value) {
  if (value >= std::numeric_limits<int32_t>::min() && value <= std::numeric_limits<int32_t>::max()) {
    return "J" + le(static_cast<int32_t>(value));
  }
  return "\x8a\x08" + le(value);
}

std::string tuple(const std::vector<int64_t>& values) {
  std::string result = "(";
  for (const int64_t value : values) result += integer(value);
  return result + "t";
}

std::string storage(const std::string& type, const std::string& key, int32_t numel, const std::string& view) {
  return "(" + text("storage") + global("torch", type) + text(key) + text("cpu") + integer(numel) + view + "tQ";
}

std::string tensor(const std::string& storage, const std::string& offset, const std::string& sizes,
                   const std::string& strides) {
  return global("torch._utils", "_rebuild_tensor_v2") + "(" + storage + offset + sizes + strides + "\x89" +
         global("collections", "OrderedDict") + ")RtR";
}

std::string zip(const std::vector<Record>& records, bool zip64) {
  const auto small = [&](uint64_t value) { return le(zip64 ? uint32_t{0xffffffff} : static_cast<uint32_t>(value)); };
  std::string file, directory;
  for (const auto& [name, data] : records) {
    const auto crc = static_cast<uint32_t>(crc32_z(0, reinterpret_cast<const Bytef*>(data.data()), data.size()));
    const uint64_t header = file.size(), size = data.size();
    const std::string names = le(static_cast<uint16_t>(name.size()));
    const std::string extra64 = le(uint16_t{1}) + le(uint16_t{16}) + le(size) + le(size);
    file += le(uint32_t{0x04034b50}) + std::string(10, '\0') + le(crc) + small(size) + small(size) + names +
            le(static_cast<uint16_t>(zip64 ? extra64.size() : 0)) + name + (zip64 ? extra64 : "") + data;
    const std::string central64 = le(uint16_t{1}) + le(uint16_t{24}) + le(size) + le(size) + le(header);
    directory += le(uint32_t{0x02014b50}) + std::string(12, '\0') + le(crc) + small(size) + small(size) + names +
                 le(static_cast<uint16_t>(zip64 ? central64.size() : 0)) + std::string(10, '\0') + small(header) +
                 name + (zip64 ? central64 : "");
  }
  const uint64_t first = file.size(), count = records.size();
  file += directory;
  if (zip64) {
    const uint64_t end = file.size();
    file += le(uint32_t{0x06064b50}) + le(uint64_t{44}) + std::string(12, '\0') + le(count) + le(count) +
            le(uint64_t{directory.size()}) + le(first);
    file += le(uint32_t{0x07064b50}) + le(uint32_t{0}) + le(end) + le(uint32_t{1});
  }
  return file + le(uint32_t{0x06054b50}) + std::string(4, '\0') + le(static_cast<uint16_t>(count)) +
         le(static_cast<uint16_t>(count)) + small(directory.size()) + small(first) + std::string(2, '\0');
}

std::string pytorch_zip(const std::string& pickle, const std::vector<std::string>& storages) {
  std::vector<Record> records{{"archive/data.pkl", pickle}, {"archive/byteorder", "little"}};
  for (size_t i = 0; i < storages.size(); ++i) records.push_back({"archive/data/" + std::to_string(i), storages[i]});
  records.push_back({"archive/version", "3\n"});
  return zip(records);
}

std::string pytorch_legacy(const std::string& body, const std::vector<std::pair<int64_t, std::string>>& storages,
                           bool little_endian) {
  std::string file = pickle(std::string("\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19", 12));
  file += pickle("M\xe9\x03");
  file += pickle("}" + text("little_endian") + (little_endian ? "\x88" : "\x89") + "s");
  file += body;
  std::string keys = "](";
  for (size_t i = 0; i < storages.size(); ++i) keys += text(std::to_string(i));
  file += pickle(keys + "e");
  for (const auto& [numel, data] : storages) file += le(numel) + data;
  return file;
}

std::string safetensors(const std::string& header, const std::string& data) {
  return le(uint64_t{header.size()}) + header + data;
}

Checkpoint parse(const std::string& bytes) {
  const auto owner = std::make_shared<const std::vector<uint8_t>>(bytes.begin(), bytes.end());
  return parse_checkpoint(ByteSpan(*owner), owner);
}

std::string error_of(const std::string& bytes) {
  try {
    parse(bytes);
  } catch (const CheckpointError& error) {
    return error.what();
  }
  return "";
}

std::vector<float> floats(const Tensor& tensor) {
  const std::vector<uint8_t> bytes = contiguous_bytes(tensor);
  std::vector<float> values(bytes.size() / sizeof(float));
  if (!bytes.empty()) std::memcpy(values.data(), bytes.data(), bytes.size());
  return values;
}

}  // namespace iabn::io::test
