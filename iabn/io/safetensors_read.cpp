#include <algorithm>
#include <limits>

#include "iabn/io/byte_reader.h"
#include "iabn/io/layout.h"
#include "iabn/io/safetensors.h"
#include "iabn/io/safetensors_header.h"
#include "iabn/io/text.h"

namespace iabn::io {
namespace {

constexpr uint64_t kMaxHeader = 100'000'000;  // the format's own limit

Tensor to_tensor(const HeaderEntry& entry, ByteSpan data, const std::shared_ptr<const void>& owner) {
  const auto wrong = [&](const std::string& text) -> CheckpointError {
    return CheckpointError("tensor " + printable(entry.name) + " " + text);
  };
  const std::optional<DType> dtype = dtype_from_safetensors_name(entry.dtype);
  if (!dtype) throw wrong("has the unknown dtype " + printable(entry.dtype));
  std::vector<int64_t> sizes;
  for (const uint64_t size : entry.shape) {
    if (size > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) throw wrong("has an impossible shape");
    sizes.push_back(static_cast<int64_t>(size));
  }
  const std::optional<int64_t> numel = checked_numel(sizes);
  uint64_t bytes = 0;
  if (!numel || __builtin_mul_overflow(static_cast<uint64_t>(*numel), size_of(*dtype), &bytes)) {
    throw wrong("has an impossible shape");
  }
  const uint64_t begin = entry.offsets[0], end = entry.offsets[1];
  if (begin > end || end > data.size()) throw wrong("lies outside the file");
  if (end - begin != bytes) {
    throw wrong("has " + std::to_string(end - begin) + " bytes, its shape and dtype " + std::to_string(bytes));
  }
  Tensor tensor = make_tensor(*dtype, std::move(sizes), {});
  tensor.storage = std::make_shared<const Storage>(Storage{owner, data.subspan(begin, bytes)});
  return tensor;
}

// Every byte of the data belongs to one tensor.
void check_cover(const Header& header, uint64_t size) {
  std::vector<std::pair<uint64_t, uint64_t>> spans;
  for (const HeaderEntry& entry : header.entries) spans.emplace_back(entry.offsets[0], entry.offsets[1]);
  std::sort(spans.begin(), spans.end());
  uint64_t position = 0;
  for (const auto& [begin, end] : spans) {
    if (begin < position)
      throw CheckpointError("two tensors overlap at byte " + std::to_string(begin) + " of the data");
    if (begin > position) throw CheckpointError("byte " + std::to_string(position) + " of the data is of no tensor");
    position = end;
  }
  if (position != size) throw CheckpointError("byte " + std::to_string(position) + " of the data is of no tensor");
}

}  // namespace

bool looks_like_safetensors(ByteSpan file) { return file.size() > 8 && file[8] == '{'; }

SafetensorsFile read_safetensors(ByteSpan file, const std::shared_ptr<const void>& owner) {
  ByteReader reader(file);
  const auto length = reader.number<uint64_t>();
  if (length > kMaxHeader || length > reader.left()) {
    throw CheckpointError("truncated, or not a safetensors file: the header is to have " + std::to_string(length) +
                          " bytes, the file has " + std::to_string(file.size()));
  }
  const Header header = parse_safetensors_header(reader.text(length));
  const ByteSpan data = reader.take(reader.left());
  SafetensorsFile result;
  result.metadata = header.metadata;
  for (const HeaderEntry& entry : header.entries) {
    result.tensors.emplace_back(entry.name, to_tensor(entry, data, owner));
  }
  check_cover(header, data.size());
  return result;
}

}  // namespace iabn::io
