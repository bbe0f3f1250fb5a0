#pragma once

// From a run-time layout and vector width to template arguments.

#include "iabn/kernels/cuda/launch_policy.h"

namespace iabn::kernels::cuda {

/// Calls f.operator()<Layout, width>().
template <class T, class F>
void with_vector(Layout layout, int width, F&& f) {
  const auto with_width = [&]<Layout kLayout>() {
    constexpr int kWidest = LaunchPolicy::kVectorBytes / static_cast<int>(sizeof(T));
    if constexpr (kWidest >= 8) {
      if (width == 8) return f.template operator()<kLayout, 8>();
    }
    if constexpr (kWidest >= 4) {
      if (width == 4) return f.template operator()<kLayout, 4>();
    }
    if (width == 2) return f.template operator()<kLayout, 2>();
    return f.template operator()<kLayout, 1>();
  };
  if (layout == Layout::kChannelsLast) {
    with_width.template operator()<Layout::kChannelsLast>();
  } else {
    with_width.template operator()<Layout::kContiguous>();
  }
}

}  // namespace iabn::kernels::cuda
