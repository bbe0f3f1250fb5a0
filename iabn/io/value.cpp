#include "iabn/io/value.h"

#include <array>
#include <cstring>

namespace iabn::io {

int64_t Tensor::numel() const {
  int64_t count = 1;
  for (const int64_t size : sizes) count *= size;
  return count;
}

bool Tensor::is_contiguous() const {
  int64_t expected = 1;
  for (size_t i = sizes.size(); i-- > 0;) {
    if (sizes[i] == 0) return true;
    if (sizes[i] != 1 && strides[i] != expected) return false;
    expected *= sizes[i];
  }
  return true;
}

Tensor make_tensor(DType dtype, std::vector<int64_t> sizes, std::vector<uint8_t> bytes) {
  Tensor tensor;
  tensor.dtype = dtype;
  tensor.sizes = std::move(sizes);
  tensor.strides.resize(tensor.sizes.size());
  int64_t stride = 1;
  for (size_t i = tensor.sizes.size(); i-- > 0;) {
    tensor.strides[i] = stride;
    stride *= tensor.sizes[i] > 0 ? tensor.sizes[i] : 1;
  }
  auto owner = std::make_shared<const std::vector<uint8_t>>(std::move(bytes));
  tensor.storage = std::make_shared<const Storage>(Storage{owner, ByteSpan(*owner)});
  return tensor;
}

std::vector<uint8_t> contiguous_bytes(const Tensor& tensor) {
  const size_t item = size_of(tensor.dtype);
  std::vector<uint8_t> result(static_cast<size_t>(tensor.numel()) * item);
  if (result.empty()) return result;
  const uint8_t* from = tensor.storage->bytes.data() + static_cast<size_t>(tensor.offset) * item;
  if (tensor.is_contiguous()) {
    std::memcpy(result.data(), from, result.size());
    return result;
  }
  std::vector<int64_t> index(tensor.sizes.size(), 0);
  // Of the element at `index`, from `from`. Unsigned, as the stride of a dimension of one element may be any number.
  uint64_t position = 0;
  for (size_t to = 0; to < result.size(); to += item) {
    std::memcpy(result.data() + to, from + position * item, item);
    for (size_t d = index.size(); d-- > 0;) {
      position += static_cast<uint64_t>(tensor.strides[d]);
      if (++index[d] < tensor.sizes[d]) break;
      position -= static_cast<uint64_t>(tensor.strides[d]) * static_cast<uint64_t>(tensor.sizes[d]);
      index[d] = 0;
    }
  }
  return result;
}

const Value* Dict::find(std::string_view key) const {
  for (const Item& item : items) {
    if (const auto* text = std::get_if<std::string>(&item.key); text != nullptr && *text == key) return &item.value;
  }
  return nullptr;
}

Value* Dict::find(std::string_view key) { return const_cast<Value*>(std::as_const(*this).find(key)); }

void Dict::set(std::string key, Value value) {
  if (Value* found = find(key)) {
    *found = std::move(value);
  } else {
    items.push_back({std::move(key), std::move(value)});
  }
}

const Value* Value::find(std::string_view key) const {
  const Dict* dict = as<Dict>();
  return dict != nullptr ? dict->find(key) : nullptr;
}

Value* Value::find(std::string_view key) { return const_cast<Value*>(std::as_const(*this).find(key)); }

std::string Value::type_name() const {
  // In the order of Data.
  constexpr std::array<const char*, 13> kNames{"None",  "bool",   "int",    "float", "str",   "bytes", "int",
                                               "dtype", "device", "tensor", "list",  "tuple", "dict"};
  static_assert(kNames.size() == std::variant_size_v<Data>);
  return kNames[data_.index()];
}

std::string text_of(const Key& key) {
  if (const auto* number = std::get_if<int64_t>(&key)) return std::to_string(*number);
  return std::get<std::string>(key);
}

}  // namespace iabn::io
