#include <algorithm>
#include <numeric>
#include <set>

#include <nlohmann/json.hpp>

#include "iabn/io/error.h"
#include "iabn/io/safetensors.h"
#include "iabn/io/text.h"

namespace iabn::io {
namespace {

size_t bytes_of(const Tensor& tensor) { return static_cast<size_t>(tensor.numel()) * size_of(tensor.dtype); }

// As JSON. Python's strings can hold half of a surrogate pair, which is no text anywhere else.
std::string quoted(const std::string& text) {
  try {
    return nlohmann::json(text).dump();
  } catch (const nlohmann::json::exception&) {
    throw CheckpointError("safetensors: the name " + printable(text) + " is not UTF-8");
  }
}

}  // namespace

std::string safetensors_bytes(const SafetensorsFile& file) {
  // Large elements first, as in the files of others: every tensor is then aligned.
  std::vector<size_t> order(file.tensors.size());
  std::iota(order.begin(), order.end(), size_t{0});
  const auto tensor = [&](size_t i) -> const Tensor& { return file.tensors[i].second; };
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return size_of(tensor(a).dtype) > size_of(tensor(b).dtype); });
  std::vector<size_t> begins(order.size());
  size_t total = 0;
  for (const size_t i : order) {
    begins[i] = total;
    total += bytes_of(tensor(i));
  }

  std::string text;
  for (const auto& [key, value] : file.metadata) text += (text.empty() ? "" : ",") + quoted(key) + ":" + quoted(value);
  if (!text.empty()) text = "\"__metadata__\":{" + text + "}";
  std::set<std::string_view> names;
  for (size_t i = 0; i < file.tensors.size(); ++i) {
    const auto& [name, value] = file.tensors[i];
    if (!names.insert(name).second || name == "__metadata__") {
      throw CheckpointError("safetensors: two tensors are named " + printable(name));
    }
    nlohmann::ordered_json entry;
    entry["dtype"] = safetensors_name_of(value.dtype);
    entry["shape"] = value.sizes;
    entry["data_offsets"] = {begins[i], begins[i] + bytes_of(value)};
    text += (text.empty() ? "" : ",") + quoted(name) + ":" + entry.dump();
  }
  text = "{" + text + "}";
  text.resize((text.size() + 7) / 8 * 8, ' ');

  std::string result;
  result.reserve(8 + text.size() + total);
  const uint64_t length = text.size();
  result.append(reinterpret_cast<const char*>(&length), sizeof length);
  result += text;
  for (const size_t i : order) {
    const std::vector<uint8_t> bytes = contiguous_bytes(tensor(i));
    result.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  }
  return result;
}

}  // namespace iabn::io
