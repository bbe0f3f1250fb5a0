#pragma once

// Statistics of several processes into those of all, for the synchronised layer; a few numbers per channel.

#include <cstdint>

#include "iabn/kernels/kernels.h"
#include "iabn/kernels/welford.h"

namespace iabn::kernels {

/// gathered [ranks, 3, C]: what `statistics` gave in each process, some of which may be empty. Merged in the order of
/// the ranks, in float64, so every process computes the same bits.
template <class A>
struct Gathered {
  const A* values = nullptr;
  int64_t ranks = 0;
  int64_t channels = 0;

  IABN_HOST_DEVICE Welford<double> merged(int64_t c) const {
    Welford<double> all;
    for (int64_t rank = 0; rank < ranks; ++rank) {
      const A* own = values + 3 * rank * channels + c;
      all.merge({double(own[0]), double(own[channels]), double(own[2 * channels])});
    }
    return all;
  }
};

/// Where the merged statistics go: mean and biased var [C], count [1] (of one channel; all have the same), and the
/// running statistics, which stay as they are where there are fewer than two values.
template <class A>
struct MergeResult {
  A* mean;
  A* var;
  A* count;
  Running<A> running;

  /// batches: the number of this batch where it counts, for the cumulative average.
  IABN_HOST_DEVICE void store(int64_t c, const Welford<double>& all, int64_t batches) const {
    const double var_biased = all.count > 0 ? all.m2 / all.count : 0.0;
    mean[c] = A(all.mean);
    var[c] = A(var_biased);
    if (c == 0) *count = A(all.count);
    if (!running.mean || all.count < 2) return;
    const double factor = running.momentum < 0 ? 1.0 / double(batches) : running.momentum;
    running.mean[c] = A((1 - factor) * double(running.mean[c]) + factor * all.mean);
    running.var[c] = A((1 - factor) * double(running.var[c]) + factor * all.m2 / (all.count - 1));
  }
};

namespace cpu {

template <class A>
void merge(const Gathered<A>& gathered, const MergeResult<A>& result) {
  const Running<A>& running = result.running;
  const bool counts = gathered.merged(0).count >= 2;
  if (counts && running.batches) ++*running.batches;
  const int64_t batches = running.batches ? *running.batches : 1;
  for (int64_t c = 0; c < gathered.channels; ++c) result.store(c, gathered.merged(c), batches);
}

}  // namespace cpu
}  // namespace iabn::kernels
