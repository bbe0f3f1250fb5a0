#pragma once

// What a checkpoint holds: a tree of Python's plain types with tensors at its leaves. No LibTorch in here: tensors.h
// turns the leaves into at::Tensor and back.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "iabn/io/dtype.h"

namespace iabn::io {

using ByteSpan = std::span<const uint8_t>;

/// Memory of one or more tensors; `owner` keeps it alive. Never written to: files and tensors share it.
struct Storage {
  std::shared_ptr<const void> owner;
  ByteSpan bytes;
};

/// Element (i, j, ...) is number offset + i * strides[0] + j * strides[1] + ... of the storage. Readers guarantee that
/// every element lies inside the storage. Data may be unaligned.
struct Tensor {
  std::shared_ptr<const Storage> storage;
  DType dtype = DType::kFloat32;
  int64_t offset = 0;
  std::vector<int64_t> sizes, strides;
  bool requires_grad = false;
  bool is_parameter = false;  // torch.nn.Parameter

  int64_t numel() const;
  bool is_contiguous() const;
};

/// A tensor of `sizes` in row-major order with storage of its own.
Tensor make_tensor(DType dtype, std::vector<int64_t> sizes, std::vector<uint8_t> bytes);

/// The elements in row-major order.
std::vector<uint8_t> contiguous_bytes(const Tensor& tensor);

struct None {};
struct Bytes {
  std::string data;
};
/// An integer of more than 64 bits: two's complement, little-endian.
struct BigInt {
  std::string data;
};
/// torch.device; index -1 = none.
struct Device {
  std::string type;
  int64_t index = -1;
};

class Value;
struct Item;
using Key = std::variant<int64_t, std::string>;

struct List {
  std::vector<Value> items;
};
struct Tuple {
  std::vector<Value> items;
  bool is_size = false;  // torch.Size
};
/// A dict, in its order; keys are unique.
struct Dict {
  std::vector<Item> items;
  bool ordered = false;               // collections.OrderedDict
  std::shared_ptr<Value> attributes;  // of an OrderedDict: {"_metadata": ...} as state_dict() adds it; may be null

  Value* find(std::string_view key);
  const Value* find(std::string_view key) const;
  /// Replaces the value of `key` or appends it.
  void set(std::string key, Value value);
};

class Value {
 public:
  using Data =
      std::variant<None, bool, int64_t, double, std::string, Bytes, BigInt, DType, Device, Tensor, List, Tuple, Dict>;

  // Defined below, where Item is complete. A pointer other than to text would otherwise become a bool.
  Value();
  template <class T>
  requires(std::is_same_v<T, bool> || std::is_same_v<T, double> || std::is_same_v<T, DType> ||
           (std::is_class_v<T> && std::is_constructible_v<Data, T>))
      Value(T data);  // NOLINT(google-explicit-constructor)
  template <class T>
  requires(std::is_integral_v<T> && !std::is_same_v<T, bool>) Value(T number);  // NOLINT(google-explicit-constructor)
  Value(const char* text);                                                      // NOLINT(google-explicit-constructor)

  template <class T>
  bool is() const {
    return std::holds_alternative<T>(data_);
  }
  /// Null where the value is something else.
  template <class T>
  const T* as() const {
    return std::get_if<T>(&data_);
  }
  template <class T>
  T* as() {
    return std::get_if<T>(&data_);
  }
  const Data& data() const { return data_; }

  /// The value under `key` where this is a dict that has it, else null.
  const Value* find(std::string_view key) const;
  Value* find(std::string_view key);

  /// "dict", "float", ...: for messages.
  std::string type_name() const;

 private:
  Data data_;
};

struct Item {
  Key key;
  Value value;
};

inline Value::Value() = default;
template <class T>
requires(std::is_same_v<T, bool> || std::is_same_v<T, double> || std::is_same_v<T, DType> ||
         (std::is_class_v<T> && std::is_constructible_v<Value::Data, T>)) Value::Value(T data)
    : data_(std::move(data)) {}
template <class T>
requires(std::is_integral_v<T> && !std::is_same_v<T, bool>) Value::Value(T number)
    : data_(static_cast<int64_t>(number)) {}
inline Value::Value(const char* text) : data_(std::string(text)) {}

/// A key for people: the text, or the number.
std::string text_of(const Key& key);

}  // namespace iabn::io
