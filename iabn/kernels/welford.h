#pragma once

// Count, mean and sum of squared deviations (M2) of a set of values, and the merge of two such sets
// (Chan, Golub, LeVeque 1979). One merge serves lanes, threads, blocks and processes.

#include "iabn/activation.h"

namespace iabn::kernels {

template <class A>
struct Welford {
  A count = A(0);
  A mean = A(0);
  A m2 = A(0);

  /// Adds one value.
  IABN_HOST_DEVICE void add(A value) {
    count += A(1);
    const A delta = value - mean;
    mean += delta / count;
    m2 += delta * (value - mean);
  }

  /// Adds a whole set; merging an empty set changes nothing. Not commutative in rounding: keep the order fixed.
  IABN_HOST_DEVICE void merge(const Welford& other) {
    if (other.count == A(0)) return;
    const A total = count + other.count;
    const A delta = other.mean - mean;
    const A share = other.count / total;
    mean += delta * share;
    m2 += other.m2 + delta * delta * count * share;
    count = total;
  }
};

}  // namespace iabn::kernels
