// Vectors of accumulation-type lanes, loaded from and stored to the four storage types. Compiled once per target.
//
// A vector always holds kLanes<T> values of accumulate_t<T>; 16-bit types are widened on load and rounded to nearest
// even on store. `n` in load/store is either Full{} or the number of leading elements to touch: tails of rows and
// segments run through the same arithmetic as everything else and never touch memory beyond the tensor.

#if defined(IABN_KERNELS_CPU_VECTOR_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef IABN_KERNELS_CPU_VECTOR_INL_H_
#undef IABN_KERNELS_CPU_VECTOR_INL_H_
#else
#define IABN_KERNELS_CPU_VECTOR_INL_H_
#endif

#include <cstring>
#include <type_traits>

#include "hwy/cache_control.h"
#include "hwy/highway.h"
#include "iabn/kernels/cpu/instruction_sets.h"

HWY_BEFORE_NAMESPACE();
namespace iabn::kernels::cpu::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

template <class T>
using Tag = hn::ScalableTag<accumulate_t<T>>;
template <class T>
using Vector = hn::Vec<Tag<T>>;
template <class T>
inline constexpr int64_t kLanes = static_cast<int64_t>(hn::MaxLanes(Tag<T>()));

/// Stands for "all lanes" where a function takes a number of elements.
struct Full {};

template <class T>
using Bits = std::conditional_t<sizeof(T) == 2, uint16_t, T>;
template <class T>
using BitsTag = hn::Rebind<Bits<T>, Tag<T>>;

// ---- memory, without conversion

template <class D, class E = hn::TFromD<D>>
HWY_INLINE hn::Vec<D> load_bits(D d, const E* p, Full) {
  return hn::LoadU(d, p);
}

template <class D, class E = hn::TFromD<D>>
HWY_INLINE hn::Vec<D> load_bits(D d, const E* p, int64_t n) {
#if HWY_CAP_GE512
  return hn::MaskedLoad(hn::FirstN(d, static_cast<size_t>(n)), d, p);  // masked-off lanes cannot fault
#else
  alignas(64) E lanes[hn::MaxLanes(D())] = {};
  std::memcpy(lanes, p, static_cast<size_t>(n) * sizeof(E));
  return hn::Load(d, lanes);
#endif
}

template <class D, class E = hn::TFromD<D>>
HWY_INLINE void store_bits(hn::Vec<D> v, D d, E* p, Full) {
  hn::StoreU(v, d, p);
}

template <class D, class E = hn::TFromD<D>>
HWY_INLINE void store_bits(hn::Vec<D> v, D d, E* p, int64_t n) {
#if HWY_CAP_GE512
  hn::BlendedStore(v, hn::FirstN(d, static_cast<size_t>(n)), d, p);
#else
  alignas(64) E lanes[hn::MaxLanes(D())];
  hn::Store(v, d, lanes);
  std::memcpy(p, lanes, static_cast<size_t>(n) * sizeof(E));
#endif
}

// ---- conversion. By integer arithmetic where Highway 1.0.3 truncates (bfloat16) or does not know infinities and NaNs
// (half precision without F16C).

template <class T>
HWY_INLINE Vector<T> widen(hn::Vec<BitsTag<T>> v) {
  const Tag<T> d;
  if constexpr (std::is_same_v<T, BFloat16>) {
    return hn::BitCast(d, hn::ShiftLeft<16>(hn::PromoteTo(hn::Rebind<uint32_t, Tag<T>>(), v)));
  } else if constexpr (std::is_same_v<T, Half>) {
#if HWY_CAP_GE256
    return hn::PromoteTo(d, hn::BitCast(hn::Rebind<hwy::float16_t, Tag<T>>(), v));
#else
    const hn::Rebind<uint32_t, Tag<T>> du;
    const auto bits = hn::PromoteTo(du, v);
    const auto magnitude = hn::And(bits, hn::Set(du, 0x7FFFu));
    const auto sign = hn::ShiftLeft<16>(hn::Xor(bits, magnitude));
    // Half's exponent read as a float's is too small by 112; multiplying by 2^112 is exact, for subnormals too.
    const auto scaled = hn::BitCast(du, hn::Mul(hn::BitCast(d, hn::ShiftLeft<13>(magnitude)), hn::Set(d, 0x1p112f)));
    const auto special = hn::VecFromMask(du, hn::Gt(magnitude, hn::Set(du, 0x7BFFu)));
    const auto exponent = hn::And(special, hn::Set(du, 0x7F800000u));
    return hn::BitCast(d, hn::Or(hn::Or(scaled, exponent), sign));
#endif
  } else {
    return v;
  }
}

template <class T>
HWY_INLINE hn::Vec<BitsTag<T>> narrow(Vector<T> v) {
  const BitsTag<T> d_bits;
  if constexpr (sizeof(T) == 2) {
    [[maybe_unused]] const Tag<T> d;
    [[maybe_unused]] const hn::Rebind<uint32_t, Tag<T>> du;
    [[maybe_unused]] const hn::Rebind<int32_t, Tag<T>> di;
    if constexpr (std::is_same_v<T, BFloat16>) {
      // Rounding would turn a NaN with a low payload into an infinity, but none comes here: those of 16-bit inputs end
      // in zeros, those of coefficients are made so (quiet() in partition.h).
      const auto bits = hn::BitCast(du, v);
      const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(du, 1u));
      const auto rounded = hn::Add(bits, hn::Add(odd, hn::Set(du, 0x7FFFu)));
#if HWY_CAP_GE512
      const hn::Repartition<uint16_t, Tag<T>> d_words;
      const auto words = hn::BitCast(d_words, rounded);
      return hn::LowerHalf(d_bits, hn::ConcatOdd(d_words, words, words));  // one instruction instead of three
#else
      return hn::DemoteTo(d_bits, hn::BitCast(di, hn::ShiftRight<16>(rounded)));
#endif
    } else {
#if HWY_CAP_GE256
      return hn::BitCast(d_bits, hn::DemoteTo(hn::Rebind<hwy::float16_t, Tag<T>>(), v));
#else
      const auto bits = hn::BitCast(du, v);
      const auto magnitude = hn::And(bits, hn::Set(du, 0x7FFFFFFFu));
      const auto sign = hn::ShiftRight<16>(hn::Xor(bits, magnitude));
      // Normal results: exponent lowered by 112 and round to nearest even on the 13 dropped bits.
      const auto odd = hn::And(hn::ShiftRight<13>(magnitude), hn::Set(du, 1u));
      const auto rounded = hn::Add(magnitude, hn::Add(odd, hn::Set(du, 0xC8000FFFu)));
      // Subnormal results: adding 0.5 aligns the mantissa to half's smallest step and rounds to nearest even.
      const auto aligned = hn::BitCast(du, hn::Add(hn::BitCast(d, magnitude), hn::Set(d, 0.5f)));
      const auto subnormal = hn::Sub(aligned, hn::Set(du, 0x3F000000u));
      auto result = hn::IfThenElse(hn::Lt(magnitude, hn::Set(du, 0x38800000u)), subnormal, hn::ShiftRight<13>(rounded));
      result = hn::IfThenElse(hn::Gt(magnitude, hn::Set(du, 0x477FEFFFu)), hn::Set(du, 0x7C00u), result);  // >= 65520
      result = hn::IfThenElse(hn::Gt(magnitude, hn::Set(du, 0x7F800000u)), hn::Set(du, 0x7E00u), result);
      return hn::DemoteTo(d_bits, hn::BitCast(di, hn::Or(result, sign)));
#endif
    }
  } else {
    return v;
  }
}

// ---- storage type <-> lanes

/// Asks for the cache line of p, which may lie beyond the tensor: a prefetch never faults.
/// Note [Prefetch]. Between the loads of two blocks lie some hundred operations, and the processor's own prefetcher
/// then runs at half of the memory's speed. Zen 5, AVX-512, float32, 25 MB, one thread, GB/s of input without and with:
/// channels last C = 64 statistics 19.6 and 52, reduce 22 and 41, backward 15 and 18; contiguous statistics 29 and 50.
/// Distances tried: 2, 4, 8 and 16 KB.
template <class T>
HWY_INLINE void prefetch(const T* p) {
  hwy::Prefetch(p);
}

/// Elements between a vector and the one to prefetch with it, within a channel.
template <class T>
inline constexpr int64_t kAhead = 4096 / int64_t(sizeof(T));

/// Rows between a row and the one to prefetch with it.
template <class T>
HWY_INLINE int64_t rows_ahead(const Tile& tile) {
  const int64_t rows = 8192 / int64_t(sizeof(T)) / tile.stride;
  return rows < 8 ? 8 : rows;
}

template <class T, class N>
HWY_INLINE Vector<T> load(const T* p, N n) {
  return widen<T>(load_bits(BitsTag<T>(), reinterpret_cast<const Bits<T>*>(p), n));
}

template <class T, class N>
HWY_INLINE void store(Vector<T> v, T* p, N n) {
  store_bits(narrow<T>(v), BitsTag<T>(), reinterpret_cast<Bits<T>*>(p), n);
}

/// Whether every whole vector of a piece at p, with runs `stride` elements apart, may be stored past the cache.
template <class T>
HWY_INLINE bool aligned_for_store_past_cache(const T* p, int64_t stride) {
  constexpr size_t kBytes = sizeof(T) * static_cast<size_t>(kLanes<T>);
  // Narrower vectors do not exist: Highway would write 16 bytes.
  return kBytes >= 16 && reinterpret_cast<uintptr_t>(p) % kBytes == 0 && static_cast<size_t>(stride) % kLanes<T> == 0;
}

/// Stores without reading the line first, which costs a read of the whole tensor; p aligned. Whoever does so ends with
/// hwy::FlushStream().
template <class T>
HWY_INLINE void store_past_cache(Vector<T> v, T* p) {
  hn::Stream(narrow<T>(v), BitsTag<T>(), reinterpret_cast<Bits<T>*>(p));
}

/// Per-channel numbers: accumulation type in memory as in the lanes.
template <class T, class N>
HWY_INLINE Vector<T> load_numbers(const accumulate_t<T>* p, N n) {
  return load_bits(Tag<T>(), p, n);
}

template <class T, class N>
HWY_INLINE void store_numbers(Vector<T> v, accumulate_t<T>* p, N n) {
  store_bits(v, Tag<T>(), p, n);
}

/// Zeroes the lanes from n on.
template <class T>
HWY_INLINE Vector<T> keep_first(Vector<T> v, Full) {
  return v;
}

template <class T>
HWY_INLINE Vector<T> keep_first(Vector<T> v, int64_t n) {
  return hn::IfThenElseZero(hn::FirstN(Tag<T>(), static_cast<size_t>(n)), v);
}

template <class T>
HWY_INLINE accumulate_t<T> sum_of_lanes(Vector<T> v) {
  return hn::GetLane(hn::SumOfLanes(Tag<T>(), v));
}

/// Calls f(offset, n) for every vector of the segments, n = Full{} or the length of a segment's tail.
template <class T, class F>
HWY_INLINE void for_each_vector(const Segments& segments, F&& f) {
  for (int64_t i = 0; i < segments.count; ++i) {
    const int64_t begin = i * segments.stride;
    int64_t j = 0;
    for (; j + kLanes<T> <= segments.length; j += kLanes<T>) f(begin + j, Full{});
    if (j < segments.length) f(begin + j, segments.length - j);
  }
}

/// Calls f(column, n) for every vector of a row.
template <class T, class F>
HWY_INLINE void for_each_column(int64_t columns, F&& f) {
  int64_t column = 0;
  for (; column + kLanes<T> <= columns; column += kLanes<T>) f(column, Full{});
  if (column < columns) f(column, columns - column);
}

}  // namespace iabn::kernels::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
