// Count, mean and M2 of pieces of x: the reduction of the forward pass. Reads x once and writes nothing of its size,
// numel * sizeof(T) bytes in all.
//
// No cancellation, whatever the mean: a block of eight vectors is reduced in registers in two passes, its mean first
// and then the squared deviations from it, and merged into the running moments of each lane (Chan's formula, see
// welford.h). Channels last: a lane is a channel. Contiguous: the lanes are independent populations of one channel,
// merged at the end. What is left of a segment after its last whole block is a block of its own kind: shorter, and with
// one element less in the lanes past the tail, but the same for every segment.
//
// Note [Origin]. Means are kept relative to an element of the piece: the roundings of sums and merges are then of the
// size of the spread and not of the mean (mean 1e4, std 1: the variance is right to 1e-6 instead of 4e-4). The element
// is the median of three, because every merge would round at the size of an outlier if that were the origin.

#include "iabn/kernels/cpu/instruction_sets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "iabn/kernels/cpu/statistics_kernels.cpp"
#include "hwy/foreach_target.h"
// Highway's order: the per-target headers follow foreach_target.h.
#include "iabn/kernels/cpu/vector-inl.h"

HWY_BEFORE_NAMESPACE();
namespace iabn::kernels::cpu::HWY_NAMESPACE {
namespace {

constexpr int64_t kBlock = 8;  // vectors: half of AVX2's registers

template <class T>
struct Moments {
  Vector<T> mean, m2;
};

template <class V>
HWY_INLINE V median(V a, V b, V c) {
  return hn::Max(hn::Min(a, b), hn::Min(hn::Max(a, b), c));
}

/// Mean and M2 of eight vectors, lane by lane.
template <class T>
HWY_INLINE Moments<T> moments_of(Vector<T> v0, Vector<T> v1, Vector<T> v2, Vector<T> v3, Vector<T> v4, Vector<T> v5,
                                 Vector<T> v6, Vector<T> v7) {
  const auto sum = hn::Add(hn::Add(hn::Add(v0, v1), hn::Add(v2, v3)), hn::Add(hn::Add(v4, v5), hn::Add(v6, v7)));
  const auto mean = hn::Mul(sum, hn::Set(Tag<T>(), accumulate_t<T>(1.0 / kBlock)));
  v0 = hn::Sub(v0, mean);
  v1 = hn::Sub(v1, mean);
  v2 = hn::Sub(v2, mean);
  v3 = hn::Sub(v3, mean);
  auto even = hn::MulAdd(v2, v2, hn::Mul(v0, v0));
  auto odd = hn::MulAdd(v3, v3, hn::Mul(v1, v1));
  v4 = hn::Sub(v4, mean);
  v5 = hn::Sub(v5, mean);
  v6 = hn::Sub(v6, mean);
  v7 = hn::Sub(v7, mean);
  even = hn::MulAdd(v6, v6, hn::MulAdd(v4, v4, even));
  odd = hn::MulAdd(v7, v7, hn::MulAdd(v5, v5, odd));
  return {mean, hn::Add(even, odd)};
}

/// Moments of eight vectors, `stride` elements apart, relative to origin.
template <class T, class N>
HWY_INLINE Moments<T> block_moments(const T* p, int64_t stride, Vector<T> origin, N n) {
  return moments_of<T>(hn::Sub(load(p, n), origin), hn::Sub(load(p + stride, n), origin),
                       hn::Sub(load(p + 2 * stride, n), origin), hn::Sub(load(p + 3 * stride, n), origin),
                       hn::Sub(load(p + 4 * stride, n), origin), hn::Sub(load(p + 5 * stride, n), origin),
                       hn::Sub(load(p + 6 * stride, n), origin), hn::Sub(load(p + 7 * stride, n), origin));
}

/// Chan's merge of a block into the moments of `count` like it, counted in any unit of `weight` elements per lane.
template <class T>
HWY_INLINE void merge(Moments<T>& moments, const Moments<T>& block, accumulate_t<T> count, accumulate_t<T> added,
                      Vector<T> weight) {
  const Tag<T> d;
  const accumulate_t<T> share = added / (count + added);
  const auto delta = hn::Sub(block.mean, moments.mean);
  moments.mean = hn::MulAdd(delta, hn::Set(d, share), moments.mean);
  moments.m2 =
      hn::MulAdd(hn::Mul(delta, delta), hn::Mul(hn::Set(d, count * share), weight), hn::Add(moments.m2, block.m2));
}

/// Blocks of one kind, `weight` elements in each lane of one.
template <class T>
struct BlockSeries {
  using A = accumulate_t<T>;
  Vector<T> weight;
  Moments<T> moments;
  A blocks;

  explicit HWY_INLINE BlockSeries(Vector<T> weight_)
      : weight(weight_), moments{hn::Zero(Tag<T>()), hn::Zero(Tag<T>())}, blocks(0) {}

  HWY_INLINE void add(const Moments<T>& block) {
    merge<T>(moments, block, blocks, A(1), weight);
    blocks += A(1);
  }

  /// All lanes together.
  HWY_INLINE Welford<A> total() const {
    const Tag<T> d;
    const auto counts = hn::Mul(weight, hn::Set(d, blocks));
    const A count = sum_of_lanes<T>(counts);
    if (count == A(0)) return {};
    const A mean = sum_of_lanes<T>(hn::Mul(moments.mean, counts)) / count;
    const auto delta = hn::Sub(moments.mean, hn::Set(d, mean));
    return {count, mean, sum_of_lanes<T>(hn::MulAdd(hn::Mul(delta, delta), counts, moments.m2))};
  }
};

/// Mean and M2 of `n` elements, lane by lane; relative to origin. `inverse` is one over the elements of a lane.
template <class T>
HWY_INLINE Moments<T> rest_moments(const T* p, int64_t n, Vector<T> origin, Vector<T> inverse) {
  const Tag<T> d;
  auto sum = hn::Zero(d);
  for_each_column<T>(
      n, [&](int64_t at, auto k) HWY_ATTR { sum = hn::Add(sum, keep_first<T>(hn::Sub(load(p + at, k), origin), k)); });
  const auto mean = hn::Mul(sum, inverse);
  auto m2 = hn::Zero(d);
  for_each_column<T>(n, [&](int64_t at, auto k) HWY_ATTR {
    const auto delta = keep_first<T>(hn::Sub(hn::Sub(load(p + at, k), origin), mean), k);
    m2 = hn::MulAdd(delta, delta, m2);
  });
  return {mean, m2};
}

template <class T>
Welford<accumulate_t<T>> segment_statistics(const T* x, const Segments& segments) {
  using A = accumulate_t<T>;
  constexpr int64_t kLane = kLanes<T>;
  constexpr int64_t kElements = kBlock * kLane;
  const Tag<T> d;
  const auto element = [&](int64_t segment, int64_t at)
                           HWY_ATTR { return hn::Set(d, static_cast<A>(x[segment * segments.stride + at])); };
  const auto origin = median(element(0, 0), element(segments.count / 2, segments.length / 2),
                             element(segments.count - 1, segments.length - 1));  // Note [Origin]

  const int64_t rest = segments.length % kElements;
  const auto one_more = hn::FirstN(d, static_cast<size_t>(rest % kLane));
  const int64_t full = rest / kLane;
  const auto weight = hn::Add(hn::Set(d, A(full)), hn::IfThenElseZero(one_more, hn::Set(d, A(1))));
  const auto inverse = hn::IfThenZeroElse(hn::Eq(weight, hn::Zero(d)), hn::Div(hn::Set(d, A(1)), weight));
  BlockSeries<T> whole(hn::Set(d, A(kBlock)));
  BlockSeries<T> rests(weight);
  for (int64_t i = 0; i < segments.count; ++i) {
    const T* p = x + i * segments.stride;
    const T* end = p + segments.length - rest;
    for (; p < end; p += kElements) {
      for (int64_t at = 0; at < kElements; at += kLane) prefetch(p + kAhead<T> + at);
      whole.add(block_moments(p, kLane, origin, Full{}));
    }
    if (rest > 0) {
      for (int64_t at = 0; at < rest; at += kLane) prefetch(p + kAhead<T> + at);
      rests.add(rest_moments(p, rest, origin, inverse));
    }
  }
  Welford<A> result = whole.total();
  result.merge(rests.total());
  result.mean += hn::GetLane(origin);
  return result;
}

template <class T>
void tile_statistics(const T* x, const Tile& tile, accumulate_t<T>* mean, accumulate_t<T>* m2) {
  using A = accumulate_t<T>;
  const Tag<T> d;
  alignas(64) A origin[kMaxTileColumns];  // Note [Origin]; `mean` holds differences from it until the end
  for_each_column<T>(tile.columns, [&](int64_t column, auto n) HWY_ATTR {
    const T* p = x + column;
    store_numbers<T>(
        median(load(p, n), load(p + tile.rows / 2 * tile.stride, n), load(p + (tile.rows - 1) * tile.stride, n)),
        origin + column, n);
    store_numbers<T>(hn::Zero(d), mean + column, n);
    store_numbers<T>(hn::Zero(d), m2 + column, n);
  });
  const auto add = [&](int64_t column, const Moments<T>& block, int64_t row, int64_t rows, auto n) HWY_ATTR {
    Moments<T> moments{load_numbers<T>(mean + column, n), load_numbers<T>(m2 + column, n)};
    merge<T>(moments, block, A(row), A(rows), hn::Set(d, A(1)));
    store_numbers<T>(moments.mean, mean + column, n);
    store_numbers<T>(moments.m2, m2 + column, n);
  };

  const int64_t ahead = rows_ahead<T>(tile);
  int64_t row = 0;
  for (; row + kBlock <= tile.rows; row += kBlock) {
    const T* p = x + row * tile.stride;
    for_each_column<T>(tile.columns, [&](int64_t column, auto n) HWY_ATTR {
      for (int64_t r = 0; r < kBlock; ++r) prefetch(p + (ahead + r) * tile.stride + column);
      add(column, block_moments(p + column, tile.stride, load_numbers<T>(origin + column, n), n), row, kBlock, n);
    });
  }
  const int64_t rest = tile.rows - row;
  const T* p = x + row * tile.stride;
  for_each_column<T>(tile.columns, [&](int64_t column, auto n) HWY_ATTR {
    const auto origin_ = load_numbers<T>(origin + column, n);
    if (rest > 0) {
      const auto value = [&](int64_t r) HWY_ATTR { return hn::Sub(load(p + r * tile.stride + column, n), origin_); };
      auto sum = hn::Zero(d);
      for (int64_t r = 0; r < rest; ++r) sum = hn::Add(sum, value(r));
      Moments<T> block{hn::Mul(sum, hn::Set(d, A(1) / A(rest))), hn::Zero(d)};
      for (int64_t r = 0; r < rest; ++r) {
        const auto delta = hn::Sub(value(r), block.mean);
        block.m2 = hn::MulAdd(delta, delta, block.m2);
      }
      add(column, block, row, rest, n);
    }
    store_numbers<T>(hn::Add(load_numbers<T>(mean + column, n), origin_), mean + column, n);
  });
}

template <class T>
void add_kernels(Primitives<T>& primitives) {
  primitives.segment_statistics = segment_statistics<T>;
  primitives.tile_statistics = tile_statistics<T>;
}

}  // namespace
}  // namespace iabn::kernels::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include "iabn/kernels/cpu/export-inl.h"

namespace iabn::kernels::cpu {
bool add_statistics_kernels(PrimitiveTable& table) { return add_kernels_of(table); }
}  // namespace iabn::kernels::cpu
#endif
