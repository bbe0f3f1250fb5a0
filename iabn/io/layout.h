#pragma once

// Arithmetic on sizes that come from a file: nothing in it may overflow.

#include <cstdint>
#include <optional>
#include <vector>

namespace iabn::io {

/// The product; nothing where a size is negative or the product does not fit. Zero sizes make it 0 whatever the others.
std::optional<int64_t> checked_numel(const std::vector<int64_t>& sizes);

/// The number of elements that a storage needs for this view: 1 + the largest index; offset where it is empty; nothing
/// where a number is negative or the result does not fit.
std::optional<int64_t> checked_extent(const std::vector<int64_t>& sizes, const std::vector<int64_t>& strides,
                                      int64_t offset);

}  // namespace iabn::io
