#pragma once

#include "iabn/io/value.h"

namespace iabn::io {

struct NonFinite {
  int64_t nan = 0, infinite = 0;
};

/// Counts in floating-point and complex tensors (there each part); others have none. An element that a stride of 0
/// repeats counts each time.
NonFinite count_non_finite(const Tensor& tensor);

}  // namespace iabn::io
