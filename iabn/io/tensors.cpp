#include "iabn/io/tensors.h"

#include <ATen/ATen.h>

#include "iabn/io/error.h"

namespace iabn::io {
namespace {

constexpr std::array<std::pair<DType, at::ScalarType>, 12> kTypes{{
    {DType::kFloat64, at::kDouble},
    {DType::kFloat32, at::kFloat},
    {DType::kFloat16, at::kHalf},
    {DType::kBFloat16, at::kBFloat16},
    {DType::kInt64, at::kLong},
    {DType::kInt32, at::kInt},
    {DType::kInt16, at::kShort},
    {DType::kInt8, at::kChar},
    {DType::kUInt8, at::kByte},
    {DType::kBool, at::kBool},
    {DType::kComplex64, at::kComplexFloat},
    {DType::kComplex128, at::kComplexDouble},
}};

at::ScalarType scalar_type(DType dtype) { return kTypes[static_cast<size_t>(dtype)].second; }

DType dtype_of(const at::Tensor& tensor) {
  for (const auto& [dtype, type] : kTypes) {
    if (type == tensor.scalar_type()) return dtype;
  }
  throw CheckpointError(std::string("tensors of type ") + toString(tensor.scalar_type()) + " are not written");
}

}  // namespace

at::Tensor to_at(const Tensor& tensor) {
  const at::TensorOptions options = at::TensorOptions().dtype(scalar_type(tensor.dtype));
  if (tensor.numel() == 0) return at::empty(tensor.sizes, options);
  const Storage& storage = *tensor.storage;
  const size_t item = size_of(tensor.dtype);
  const uint8_t* first = storage.bytes.data() + static_cast<size_t>(tensor.offset) * item;
  if (reinterpret_cast<uintptr_t>(first) % item != 0) {
    at::Tensor copy = at::empty(tensor.sizes, options);
    const std::vector<uint8_t> bytes = contiguous_bytes(tensor);
    std::memcpy(copy.data_ptr(), bytes.data(), bytes.size());
    return copy;
  }
  // LibTorch has no const tensors; the header says not to write.
  return at::from_blob(
      const_cast<uint8_t*>(first), tensor.sizes, tensor.strides, [keep = tensor.storage](void*) { (void)keep; },
      options);
}

Tensor from_at(const at::Tensor& tensor) {
  if (!tensor.defined()) throw CheckpointError("an undefined tensor cannot be written");
  if (tensor.layout() != at::kStrided || tensor.is_quantized()) {
    throw CheckpointError("only dense tensors are written, got a sparse or quantised one");
  }
  const at::Tensor source = tensor.detach().cpu().resolve_conj().resolve_neg();
  Tensor result;
  result.dtype = dtype_of(source);
  result.offset = source.storage_offset();
  result.sizes = source.sizes().vec();
  result.strides = source.strides().vec();
  const size_t bytes = source.storage().nbytes();
  const auto* data = static_cast<const uint8_t*>(source.storage().data());
  result.storage =
      std::make_shared<const Storage>(Storage{std::make_shared<at::Tensor>(source), ByteSpan(data, bytes)});
  return result;
}

Dict to_state_dict(const std::vector<std::pair<std::string, at::Tensor>>& tensors, const std::string& prefix) {
  Dict dict;
  dict.ordered = true;
  for (const auto& [name, tensor] : tensors) dict.items.push_back({prefix + name, from_at(tensor)});
  return dict;
}

}  // namespace iabn::io
