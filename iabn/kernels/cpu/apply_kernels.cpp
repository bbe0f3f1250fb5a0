// z = act((x - mean) * scale + shift), written over x: the second half of the forward pass, and all of it with running
// statistics. Reads and writes x once, 2 * numel * sizeof(T) bytes. Nothing but elementwise work: vectors of one
// channel take one set of coefficients (contiguous), columns of a row take their own (channels last).

#include "iabn/kernels/cpu/instruction_sets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "iabn/kernels/cpu/apply_kernels.cpp"
#include "hwy/foreach_target.h"
// Highway's order: the per-target headers follow foreach_target.h.
#include "iabn/kernels/cpu/activation-inl.h"

HWY_BEFORE_NAMESPACE();
namespace iabn::kernels::cpu::HWY_NAMESPACE {
namespace {

// Rows that share one load of a column's coefficients.
constexpr int64_t kRows = 8;

template <class T, class Act>
void segment_apply_as(T* x, const Segments& segments, const ApplyCoefficients<accumulate_t<T>>& coefficients,
                      const Act& act) {
  const Tag<T> d;
  const auto mean = hn::Set(d, coefficients.mean);
  const auto scale = hn::Set(d, coefficients.scale);
  const auto shift = hn::Set(d, coefficients.shift);
  for_each_vector<T>(segments, [&](int64_t at, auto n) HWY_ATTR {
    prefetch(x + at + kAhead<T>);
    store<T>(act.forward(hn::MulAdd(hn::Sub(load(x + at, n), mean), scale, shift)), x + at, n);
  });
}

template <class T, class Act>
void tile_apply_as(T* x, const Tile& tile, const accumulate_t<T>* mean, const accumulate_t<T>* scale,
                   const accumulate_t<T>* shift, const Act& act) {
  const int64_t ahead = rows_ahead<T>(tile);
  for (int64_t row = 0; row < tile.rows; row += kRows) {
    T* p = x + row * tile.stride;
    const int64_t rows = tile.rows - row < kRows ? tile.rows - row : kRows;
    for_each_column<T>(tile.columns, [&](int64_t column, auto n) HWY_ATTR {
      const auto mean_ = load_numbers<T>(mean + column, n);
      const auto scale_ = load_numbers<T>(scale + column, n);
      const auto shift_ = load_numbers<T>(shift + column, n);
      for (int64_t r = 0; r < rows; ++r) {
        T* q = p + r * tile.stride + column;
        prefetch(q + ahead * tile.stride);
        store<T>(act.forward(hn::MulAdd(hn::Sub(load(q, n), mean_), scale_, shift_)), q, n);
      }
    });
  }
}

template <class T>
void segment_apply(T* x, const Segments& segments, const ApplyCoefficients<accumulate_t<T>>& coefficients,
                   const ActivationSpec& spec) {
  with_activation<T>(spec, [&](const auto& act) HWY_ATTR {
    segment_apply_as<T>(x, segments, coefficients, VectorActivation<T, std::decay_t<decltype(act)>>(act));
  });
}

template <class T>
void tile_apply(T* x, const Tile& tile, const accumulate_t<T>* mean, const accumulate_t<T>* scale,
                const accumulate_t<T>* shift, const ActivationSpec& spec) {
  with_activation<T>(spec, [&](const auto& act) HWY_ATTR {
    tile_apply_as<T>(x, tile, mean, scale, shift, VectorActivation<T, std::decay_t<decltype(act)>>(act));
  });
}

template <class T>
void add_kernels(Primitives<T>& primitives) {
  primitives.segment_apply = segment_apply<T>;
  primitives.tile_apply = tile_apply<T>;
}

}  // namespace
}  // namespace iabn::kernels::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include "iabn/kernels/cpu/export-inl.h"

namespace iabn::kernels::cpu {
bool add_apply_kernels(PrimitiveTable& table) { return add_kernels_of(table); }
}  // namespace iabn::kernels::cpu
#endif
