#include "iabn/io/finite.h"

#include <cstring>

namespace iabn::io {
namespace {

// By the bits: exponent all ones, then infinite where the mantissa is 0.
template <class Bits, int kMantissa>
NonFinite count(const std::vector<uint8_t>& bytes) {
  constexpr Bits kMagnitude = static_cast<Bits>(~Bits{0}) >> 1;
  constexpr Bits kInfinity = kMagnitude >> kMantissa << kMantissa;
  NonFinite result;
  for (size_t i = 0; i < bytes.size(); i += sizeof(Bits)) {
    Bits bits;
    std::memcpy(&bits, bytes.data() + i, sizeof bits);
    const Bits magnitude = bits & kMagnitude;
    result.nan += magnitude > kInfinity;
    result.infinite += magnitude == kInfinity;
  }
  return result;
}

}  // namespace

NonFinite count_non_finite(const Tensor& tensor) {
  switch (tensor.dtype) {
    case DType::kFloat64:
    case DType::kComplex128:
      return count<uint64_t, 52>(contiguous_bytes(tensor));
    case DType::kFloat32:
    case DType::kComplex64:
      return count<uint32_t, 23>(contiguous_bytes(tensor));
    case DType::kFloat16:
      return count<uint16_t, 10>(contiguous_bytes(tensor));
    case DType::kBFloat16:
      return count<uint16_t, 7>(contiguous_bytes(tensor));
    default:
      return {};
  }
}

}  // namespace iabn::io
