#include "iabn/io/dtype.h"

#include <array>

namespace iabn::io {
namespace {

struct Entry {
  std::string_view name, storage_class, safetensors;
  size_t size;
};

// In the order of DType.
constexpr std::array<Entry, 12> kTable{{
    {"float64", "DoubleStorage", "F64", 8},
    {"float32", "FloatStorage", "F32", 4},
    {"float16", "HalfStorage", "F16", 2},
    {"bfloat16", "BFloat16Storage", "BF16", 2},
    {"int64", "LongStorage", "I64", 8},
    {"int32", "IntStorage", "I32", 4},
    {"int16", "ShortStorage", "I16", 2},
    {"int8", "CharStorage", "I8", 1},
    {"uint8", "ByteStorage", "U8", 1},
    {"bool", "BoolStorage", "BOOL", 1},
    {"complex64", "ComplexFloatStorage", "C64", 8},
    {"complex128", "ComplexDoubleStorage", "C128", 16},
}};

const Entry& entry(DType dtype) { return kTable[static_cast<size_t>(dtype)]; }

std::optional<DType> find(std::string_view Entry::*field, std::string_view name) {
  for (size_t i = 0; i < kTable.size(); ++i) {
    if (kTable[i].*field == name) return static_cast<DType>(i);
  }
  return std::nullopt;
}

}  // namespace

size_t size_of(DType dtype) { return entry(dtype).size; }
std::string_view name_of(DType dtype) { return entry(dtype).name; }
std::string_view storage_class_of(DType dtype) { return entry(dtype).storage_class; }
std::string_view safetensors_name_of(DType dtype) { return entry(dtype).safetensors; }

std::optional<DType> dtype_from_name(std::string_view name) { return find(&Entry::name, name); }
std::optional<DType> dtype_from_storage_class(std::string_view name) { return find(&Entry::storage_class, name); }
std::optional<DType> dtype_from_safetensors_name(std::string_view name) { return find(&Entry::safetensors, name); }

bool is_floating_point(DType dtype) { return dtype <= DType::kBFloat16; }

}  // namespace iabn::io
