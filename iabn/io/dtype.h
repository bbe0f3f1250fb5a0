#pragma once

// Element types of tensors and their names in each file format.

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

namespace iabn::io {

enum class DType : uint8_t {
  kFloat64,
  kFloat32,
  kFloat16,
  kBFloat16,
  kInt64,
  kInt32,
  kInt16,
  kInt8,
  kUInt8,
  kBool,
  kComplex64,
  kComplex128,
};

/// Bytes of one element.
size_t size_of(DType dtype);

/// "float32": PyTorch's name without the "torch.".
std::string_view name_of(DType dtype);
std::optional<DType> dtype_from_name(std::string_view name);

/// "FloatStorage": the class that stands for the type in a pickle.
std::string_view storage_class_of(DType dtype);
std::optional<DType> dtype_from_storage_class(std::string_view name);

/// "F32": safetensors' name.
std::string_view safetensors_name_of(DType dtype);
std::optional<DType> dtype_from_safetensors_name(std::string_view name);

bool is_floating_point(DType dtype);

}  // namespace iabn::io
