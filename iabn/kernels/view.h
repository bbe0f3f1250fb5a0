#pragma once

// How the kernels see an activation tensor [N, C, S...]: raw pointer + shape + one of two dense layouts.

#include <cstdint>

namespace iabn::kernels {

enum class Layout {
  kContiguous,    // element (n, c, s) at (n * C + c) * S + s
  kChannelsLast,  // element (n, c, s) at (n * S + s) * C + c; also every [N, C] tensor (S = 1)
};

/// All counts are 64-bit: a channel and a tensor may hold more than 2^31 elements.
struct Shape {
  int64_t n = 0;  // batch
  int64_t c = 0;  // channels
  int64_t s = 0;  // product of the trailing dimensions, 1 where there are none
  Layout layout = Layout::kContiguous;

  int64_t count() const { return n * s; }  // m: elements per channel
  int64_t numel() const { return n * c * s; }
};

}  // namespace iabn::kernels
