// The four sums of backward (A0 = sum d_y, A1 = sum d_y*y', B1 = sum y', B2 = sum y'^2 with y' = act^-1(z) - beta) of a
// piece of z and d_z. Reads both once, 2 * numel * sizeof(T) bytes.
//
// Sums are kept per lane and a piece is limited by the partition (partition.h), so a float32 accumulator adds at most
// a few thousand terms; the pieces' sums are merged in double, in a fixed order.

#include "iabn/kernels/cpu/instruction_sets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "iabn/kernels/cpu/reduce_kernels.cpp"
#include "hwy/foreach_target.h"
// Highway's order: the per-target headers follow foreach_target.h.
#include "iabn/kernels/cpu/activation-inl.h"

HWY_BEFORE_NAMESPACE();
namespace iabn::kernels::cpu::HWY_NAMESPACE {
namespace {

// Rows that share one load and store of a column's sums.
constexpr int64_t kRows = 8;

template <class T>
struct Sums {
  Vector<T> a0, a1, b1, b2;

  static HWY_INLINE Sums zero() {
    const auto z = hn::Zero(Tag<T>());
    return {z, z, z, z};
  }
  HWY_INLINE void add(const Sums& other) {
    a0 = hn::Add(a0, other.a0);
    a1 = hn::Add(a1, other.a1);
    b1 = hn::Add(b1, other.b1);
    b2 = hn::Add(b2, other.b2);
  }
};

/// Adds one vector. Lanes past n loaded as zero: their d_y is 0, their y' is -beta and has to go.
template <class T, class Act, class N>
HWY_INLINE void accumulate(Sums<T>& sums, const Act& act, Vector<T> beta, const T* z, const T* d_z, N n) {
  const Recovered<T> r = act.backward(load(z, n), load(d_z, n));
  const auto y = keep_first<T>(hn::Sub(r.y, beta), n);
  sums.a0 = hn::Add(sums.a0, r.d_y);
  sums.a1 = hn::MulAdd(r.d_y, y, sums.a1);
  sums.b1 = hn::Add(sums.b1, y);
  sums.b2 = hn::MulAdd(y, y, sums.b2);
}

template <class T, class Act>
void segment_reduce_as(const T* z, const T* d_z, const Segments& segments, accumulate_t<T> beta, const Act& act,
                       accumulate_t<T>* sums) {
  constexpr int64_t kLane = kLanes<T>;
  const auto beta_ = hn::Set(Tag<T>(), beta);
  // Two sets of sums: one alone waits for its own additions.
  auto even = Sums<T>::zero();
  auto odd = Sums<T>::zero();
  for (int64_t i = 0; i < segments.count; ++i) {
    const T* p = z + i * segments.stride;
    const T* q = d_z + i * segments.stride;
    int64_t j = 0;
    for (; j + 2 * kLane <= segments.length; j += 2 * kLane) {
      prefetch(p + j + kAhead<T>);
      prefetch(q + j + kAhead<T>);
      prefetch(p + j + kLane + kAhead<T>);
      prefetch(q + j + kLane + kAhead<T>);
      accumulate(even, act, beta_, p + j, q + j, Full{});
      accumulate(odd, act, beta_, p + j + kLane, q + j + kLane, Full{});
    }
    if (j + kLane <= segments.length) {
      accumulate(even, act, beta_, p + j, q + j, Full{});
      j += kLane;
    }
    if (j < segments.length) accumulate(odd, act, beta_, p + j, q + j, segments.length - j);
  }
  even.add(odd);
  sums[0] = sum_of_lanes<T>(even.a0);
  sums[1] = sum_of_lanes<T>(even.a1);
  sums[2] = sum_of_lanes<T>(even.b1);
  sums[3] = sum_of_lanes<T>(even.b2);
}

template <class T, class Act>
void tile_reduce_as(const T* z, const T* d_z, const Tile& tile, const accumulate_t<T>* beta, const Act& act,
                    accumulate_t<T>* sums, int64_t stride) {
  for_each_column<T>(tile.columns, [&](int64_t column, auto n) HWY_ATTR {
    for (int64_t k = 0; k < 4; ++k) store_numbers<T>(hn::Zero(Tag<T>()), sums + k * stride + column, n);
  });
  const int64_t ahead = rows_ahead<T>(tile);
  for (int64_t row = 0; row < tile.rows; row += kRows) {
    const int64_t begin = row * tile.stride;
    const int64_t rows = tile.rows - row < kRows ? tile.rows - row : kRows;
    for_each_column<T>(tile.columns, [&](int64_t column, auto n) HWY_ATTR {
      accumulate_t<T>* s = sums + column;
      const auto beta_ = load_numbers<T>(beta + column, n);
      Sums<T> total{load_numbers<T>(s, n), load_numbers<T>(s + stride, n), load_numbers<T>(s + 2 * stride, n),
                    load_numbers<T>(s + 3 * stride, n)};
      for (int64_t r = 0; r < rows; ++r) {
        const int64_t at = begin + r * tile.stride + column;
        prefetch(z + at + ahead * tile.stride);
        prefetch(d_z + at + ahead * tile.stride);
        accumulate(total, act, beta_, z + at, d_z + at, n);
      }
      store_numbers<T>(total.a0, s, n);
      store_numbers<T>(total.a1, s + stride, n);
      store_numbers<T>(total.b1, s + 2 * stride, n);
      store_numbers<T>(total.b2, s + 3 * stride, n);
    });
  }
}

template <class T>
void segment_reduce(const T* z, const T* d_z, const Segments& segments, accumulate_t<T> beta,
                    const ActivationSpec& spec, accumulate_t<T>* sums) {
  with_activation<T>(spec, [&](const auto& act) HWY_ATTR {
    segment_reduce_as<T>(z, d_z, segments, beta, VectorActivation<T, std::decay_t<decltype(act)>>(act), sums);
  });
}

template <class T>
void tile_reduce(const T* z, const T* d_z, const Tile& tile, const accumulate_t<T>* beta, const ActivationSpec& spec,
                 accumulate_t<T>* sums, int64_t sums_stride) {
  with_activation<T>(spec, [&](const auto& act) HWY_ATTR {
    tile_reduce_as<T>(z, d_z, tile, beta, VectorActivation<T, std::decay_t<decltype(act)>>(act), sums, sums_stride);
  });
}

template <class T>
void add_kernels(Primitives<T>& primitives) {
  primitives.segment_reduce = segment_reduce<T>;
  primitives.tile_reduce = tile_reduce<T>;
}

}  // namespace
}  // namespace iabn::kernels::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include "iabn/kernels/cpu/export-inl.h"

namespace iabn::kernels::cpu {
bool add_reduce_kernels(PrimitiveTable& table) { return add_kernels_of(table); }
}  // namespace iabn::kernels::cpu
#endif
