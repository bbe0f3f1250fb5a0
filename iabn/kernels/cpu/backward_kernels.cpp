// d_x = a*d_y + b*y' + c with y' = act^-1(z) - beta: the second half of the backward pass, or a*d_y alone with frozen
// statistics. Reads z and d_z, writes d_x, 3 * numel * sizeof(T) bytes, and as much as 4 where the processor reads the
// lines of d_x before it overwrites them; tensors too large for the cache are stored past it instead. d_x may be d_z
// itself: every vector is loaded before it is stored.

#include "iabn/kernels/cpu/instruction_sets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "iabn/kernels/cpu/backward_kernels.cpp"
#include "hwy/foreach_target.h"
// Highway's order: the per-target headers follow foreach_target.h.
#include "iabn/kernels/cpu/activation-inl.h"

HWY_BEFORE_NAMESPACE();
namespace iabn::kernels::cpu::HWY_NAMESPACE {
namespace {

// Rows that share one load of a column's coefficients.
constexpr int64_t kRows = 8;

template <class T, bool kLinear>
struct Coefficients {
  Vector<T> a, b, c, beta;

  HWY_INLINE Vector<T> operator()(const Recovered<T>& r) const {
    if constexpr (kLinear) return hn::MulAdd(r.d_y, a, hn::MulAdd(hn::Sub(r.y, beta), b, c));
    return hn::Mul(r.d_y, a);
  }
};

template <class T, class N>
HWY_INLINE void store_gradient(Vector<T> v, T* p, N n, bool past_cache) {
  if constexpr (std::is_same_v<N, Full>) {
    if (past_cache) return store_past_cache(v, p);
  }
  store(v, p, n);
}

template <class T, bool kLinear, class Act>
void segment_backward_as(const T* z, const T* d_z, T* d_x, const Segments& segments, accumulate_t<T> beta,
                         const BackwardCoefficients<accumulate_t<T>>& numbers, bool past_cache, const Act& act) {
  const Tag<T> d;
  const Coefficients<T, kLinear> gradient{hn::Set(d, numbers.a), hn::Set(d, numbers.b), hn::Set(d, numbers.c),
                                          hn::Set(d, beta)};
  for_each_vector<T>(segments, [&](int64_t at, auto n) HWY_ATTR {
    prefetch(z + at + kAhead<T>);
    prefetch(d_z + at + kAhead<T>);
    store_gradient(gradient(act.backward(load(z + at, n), load(d_z + at, n))), d_x + at, n, past_cache);
  });
}

template <class T, bool kLinear, class Act>
void tile_backward_as(const T* z, const T* d_z, T* d_x, const Tile& tile, const accumulate_t<T>* beta,
                      const accumulate_t<T>* a, const accumulate_t<T>* b, const accumulate_t<T>* c, bool past_cache,
                      const Act& act) {
  const int64_t ahead = rows_ahead<T>(tile);
  for (int64_t row = 0; row < tile.rows; row += kRows) {
    const int64_t begin = row * tile.stride;
    const int64_t rows = tile.rows - row < kRows ? tile.rows - row : kRows;
    for_each_column<T>(tile.columns, [&](int64_t column, auto n) HWY_ATTR {
      Coefficients<T, kLinear> gradient;
      gradient.a = load_numbers<T>(a + column, n);
      if constexpr (kLinear) {
        gradient.b = load_numbers<T>(b + column, n);
        gradient.c = load_numbers<T>(c + column, n);
        gradient.beta = load_numbers<T>(beta + column, n);
      }
      for (int64_t r = 0; r < rows; ++r) {
        const int64_t at = begin + r * tile.stride + column;
        prefetch(z + at + ahead * tile.stride);
        prefetch(d_z + at + ahead * tile.stride);
        store_gradient(gradient(act.backward(load(z + at, n), load(d_z + at, n))), d_x + at, n, past_cache);
      }
    });
  }
}

/// Calls f(act, std::bool_constant<form.linear>, past_cache). ReLU has no inverse and so no linear form.
template <class T, class F>
void with_form(BackwardForm form, const T* d_x, int64_t stride, const ActivationSpec& spec, F&& f) {
  const bool past_cache = form.past_cache && aligned_for_store_past_cache(d_x, stride);
  with_activation<T>(spec, [&](const auto& act) HWY_ATTR {
    using Act = std::decay_t<decltype(act)>;
    const VectorActivation<T, Act> vector_act(act);
    if constexpr (!std::is_same_v<Act, ReLU<accumulate_t<T>>>) {
      if (form.linear) return f(vector_act, std::true_type{}, past_cache);
    }
    f(vector_act, std::false_type{}, past_cache);
  });
  if (past_cache) hwy::FlushStream();
}

template <class T>
void segment_backward(const T* z, const T* d_z, T* d_x, const Segments& segments, accumulate_t<T> beta,
                      const BackwardCoefficients<accumulate_t<T>>& numbers, BackwardForm form,
                      const ActivationSpec& spec) {
  with_form<T>(form, d_x, segments.stride, spec, [&](const auto& act, auto linear, bool past_cache) HWY_ATTR {
    segment_backward_as<T, decltype(linear)::value>(z, d_z, d_x, segments, beta, numbers, past_cache, act);
  });
}

template <class T>
void tile_backward(const T* z, const T* d_z, T* d_x, const Tile& tile, const accumulate_t<T>* beta,
                   const accumulate_t<T>* a, const accumulate_t<T>* b, const accumulate_t<T>* c, BackwardForm form,
                   const ActivationSpec& spec) {
  with_form<T>(form, d_x, tile.stride, spec, [&](const auto& act, auto linear, bool past_cache) HWY_ATTR {
    tile_backward_as<T, decltype(linear)::value>(z, d_z, d_x, tile, beta, a, b, c, past_cache, act);
  });
}

template <class T>
void add_kernels(Primitives<T>& primitives) {
  primitives.segment_backward = segment_backward<T>;
  primitives.tile_backward = tile_backward<T>;
}

}  // namespace
}  // namespace iabn::kernels::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include "iabn/kernels/cpu/export-inl.h"

namespace iabn::kernels::cpu {
bool add_backward_kernels(PrimitiveTable& table) { return add_kernels_of(table); }
}  // namespace iabn::kernels::cpu
#endif
