#include "iabn/io/layout.h"

#include <algorithm>

namespace iabn::io {
namespace {

bool any_negative(const std::vector<int64_t>& values) {
  return std::any_of(values.begin(), values.end(), [](int64_t value) { return value < 0; });
}

}  // namespace

std::optional<int64_t> checked_numel(const std::vector<int64_t>& sizes) {
  if (any_negative(sizes)) return std::nullopt;
  int64_t count = 1;
  // Every partial product must fit, in any order: other code multiplies the sizes in an order of its own.
  for (const int64_t size : sizes) {
    if (__builtin_mul_overflow(count, size == 0 ? 1 : size, &count)) return std::nullopt;
  }
  return std::find(sizes.begin(), sizes.end(), 0) != sizes.end() ? 0 : count;
}

std::optional<int64_t> checked_extent(const std::vector<int64_t>& sizes, const std::vector<int64_t>& strides,
                                      int64_t offset) {
  if (sizes.size() != strides.size() || offset < 0 || any_negative(strides)) return std::nullopt;
  const std::optional<int64_t> numel = checked_numel(sizes);
  if (!numel) return std::nullopt;
  if (*numel == 0) return offset;
  int64_t last = offset;
  for (size_t i = 0; i < sizes.size(); ++i) {
    int64_t step = 0;
    if (__builtin_mul_overflow(sizes[i] - 1, strides[i], &step) || __builtin_add_overflow(last, step, &last)) {
      return std::nullopt;
    }
  }
  if (__builtin_add_overflow(last, 1, &last)) return std::nullopt;
  return last;
}

}  // namespace iabn::io
