// The activations of iabn/activation.h on vectors: same formulas, same decisions. Compiled once per target.

#if defined(IABN_KERNELS_CPU_ACTIVATION_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef IABN_KERNELS_CPU_ACTIVATION_INL_H_
#undef IABN_KERNELS_CPU_ACTIVATION_INL_H_
#else
#define IABN_KERNELS_CPU_ACTIVATION_INL_H_
#endif

#include "hwy/contrib/math/math-inl.h"
#include "iabn/kernels/cpu/vector-inl.h"
#include "iabn/kernels/dispatch.h"

HWY_BEFORE_NAMESPACE();
namespace iabn::kernels::cpu::HWY_NAMESPACE {

/// What backward needs of one vector: y = act^-1(z) and d_y = d_z * act'(y).
template <class T>
struct Recovered {
  Vector<T> y, d_y;
};

/// Vector form of a scalar activation: forward(y) = z and backward(z, d_z) = {y, d_y}.
template <class T, class Scalar>
struct VectorActivation;

template <class T>
struct VectorActivation<T, Identity<accumulate_t<T>>> {
  explicit VectorActivation(const Identity<accumulate_t<T>>&) {}
  HWY_INLINE Vector<T> forward(Vector<T> y) const { return y; }
  HWY_INLINE Recovered<T> backward(Vector<T> z, Vector<T> d_z) const { return {z, d_z}; }
};

template <class T>
struct VectorActivation<T, LeakyReLU<accumulate_t<T>>> {
  Vector<T> slope, inverse_slope;

  explicit HWY_INLINE VectorActivation(const LeakyReLU<accumulate_t<T>>& a)
      : slope(hn::Set(Tag<T>(), a.slope)), inverse_slope(hn::Set(Tag<T>(), a.inverse_slope)) {}

  /// By the sign bit. Not Highway's IfNegativeThenElse: its scalar form takes -0.0 for positive.
  static HWY_INLINE hn::Mask<Tag<T>> negative(Vector<T> v) {
    const hn::RebindToSigned<Tag<T>> d_int;
    return hn::RebindMask(Tag<T>(), hn::Lt(hn::BitCast(d_int, v), hn::Zero(d_int)));
  }
  HWY_INLINE Vector<T> forward(Vector<T> y) const { return hn::IfThenElse(negative(y), hn::Mul(y, slope), y); }
  HWY_INLINE Recovered<T> backward(Vector<T> z, Vector<T> d_z) const {
    const auto is_negative = negative(z);
    return {hn::IfThenElse(is_negative, hn::Mul(z, inverse_slope), z),
            hn::IfThenElse(is_negative, hn::Mul(d_z, slope), d_z)};
  }
};

template <class T>
struct VectorActivation<T, ELU<accumulate_t<T>>> {
  using A = accumulate_t<T>;
  Vector<T> alpha, inverse_alpha, inverse_floor;

  explicit HWY_INLINE VectorActivation(const ELU<A>& a)
      : alpha(hn::Set(Tag<T>(), a.alpha)),
        inverse_alpha(hn::Set(Tag<T>(), a.inverse_alpha)),
        inverse_floor(hn::Set(Tag<T>(), a.inverse_floor)) {}

  HWY_INLINE Vector<T> forward(Vector<T> y) const {
    const Tag<T> d;
    // Below the bound expm1 is -1 to every digit; its argument stays small enough for the conversion to an integer
    // inside Expm1, and that of lanes which do not need it too.
    const auto lowest = hn::Set(d, A(sizeof(A) == 4 ? -100.0 : -700.0));
    const auto argument = hn::Min(hn::Max(y, lowest), hn::Zero(d));
    const auto z = hn::Mul(alpha, hn::Expm1(d, argument));
    const auto keep = hn::Or(hn::Gt(y, hn::Zero(d)), hn::IsNaN(y));
    return hn::IfThenElse(keep, y, z);
  }

  HWY_INLINE Recovered<T> backward(Vector<T> z, Vector<T> d_z) const {
    const Tag<T> d;
    const auto zero = hn::Zero(d);
    const auto one = hn::Set(d, A(1));
    const auto keep = hn::Or(hn::Gt(z, zero), hn::IsNaN(z));
    const auto ratio = hn::Mul(z, inverse_alpha);
    const auto saturated = hn::Le(ratio, hn::Neg(one));  // z has been rounded to -alpha or past it
    const auto logarithm = hn::Log1p(d, hn::IfThenZeroElse(hn::Or(saturated, keep), ratio));
    const auto below = hn::Or(saturated, hn::Lt(logarithm, inverse_floor));
    const auto y = hn::IfThenElse(keep, z, hn::IfThenElse(below, inverse_floor, logarithm));
    const auto sum = hn::Add(z, alpha);
    const auto derivative = hn::IfThenElse(hn::Gt(z, zero), one, hn::IfThenZeroElse(hn::Lt(sum, zero), sum));
    return {y, hn::Mul(d_z, derivative)};
  }
};

template <class T>
struct VectorActivation<T, ReLU<accumulate_t<T>>> {
  explicit VectorActivation(const ReLU<accumulate_t<T>>&) {}
  HWY_INLINE Vector<T> forward(Vector<T> y) const {
    const auto zero = hn::Zero(Tag<T>());
    return hn::IfThenZeroElse(hn::Lt(y, zero), y);  // a NaN stays a NaN
  }
  HWY_INLINE Recovered<T> backward(Vector<T> z, Vector<T> d_z) const {
    const Tag<T> d;
    const auto zero = hn::Zero(d);
    // A product, not a selection: an infinite or NaN d_z shows in d_y as it does in the scalar form.
    return {z, hn::Mul(d_z, hn::IfThenZeroElse(hn::Le(z, zero), hn::Set(d, accumulate_t<T>(1))))};
  }
};

}  // namespace iabn::kernels::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
