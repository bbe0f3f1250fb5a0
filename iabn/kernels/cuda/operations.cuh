#pragma once

// The two directions as the on-chip kernels see them: what is reduced per channel, how the sums of all blocks become
// four coefficients and the published results, and how the coefficients apply to a vector. Formulas:
// iabn/kernels/kernels.h.
//
// An operation offers
//   kInputs, kOutputs        tensors that are read and written
//   kReduced                 inputs that the reduction needs, the first ones
//   kCoefficients            numbers of a channel that an application needs
//   kPeers                   sums are those of several processes
//   Accumulator<slots>       see accumulators.cuh
//   Constants<slots>         per-channel numbers that the reduction needs
//   begin, Batch<slots>      the reduction: begin before a channel's first vectors; add vectors to a batch, merge it
//   kPosters, post           threads per channel that post the block's sums (exact_sums.cuh), and the work of one;
//                            number(w, i): the numbers of warp w's accumulator; count(w): its elements
//   usual, take              where the sums of all blocks are looked for first; the accumulator that they make
//   parameters               what is known of a channel before the sums are
//   summary                  what the sums say about a channel: this process's, with a PeerGroup those of several
//   coefficients, apply      the numbers of the application, for which everybody waits; and the output vectors
//   publish                  what the caller gets of a channel
//
// The residual form, z = act(y + r), has r as its last input; backward recovers y' = act^-1(z) - r - beta and returns
// d_r = d_y beside d_x.

#include "iabn/kernels/cuda/accumulators.cuh"
#include "iabn/kernels/cuda/activations.cuh"
#include "iabn/kernels/cuda/exact_sums.cuh"
#include "iabn/kernels/cuda/moments.cuh"
#include "iabn/kernels/cuda/summary.cuh"
#include "iabn/kernels/cuda/vector.cuh"
#include "iabn/kernels/kernels.h"

namespace iabn::kernels::cuda {

/// Four numbers for each of a thread's channels.
template <int kSlots>
struct Coefficients {
  float value[4][kSlots];
};

template <class T, class Act, bool kResidual = false, bool kPeers_ = false>
struct ForwardOperation {
  using Storage = T;
  static constexpr bool kPeers = kPeers_;
  static constexpr int kInputs = kResidual ? 2 : 1;  // x, r
  static constexpr int kReduced = 1;
  static constexpr int kOutputs = 1;       // z
  static constexpr int kCoefficients = 3;  // mean, scale, beta
  template <int kSlots>
  using Accumulator = Moments<float, kSlots>;
  template <int kSlots>
  struct Constants {
    __device__ __forceinline__ Constants(const ForwardOperation&, int64_t, int64_t) {}
  };

  Act act;
  Affine<float> affine;
  Running<float> running;  // momentum is given, not cumulative
  float* mean;             // [C]
  float* var;              // [C], biased
  float* count = nullptr;  // [1], of all processes; null: there is this one alone

  template <int kSlots>
  using Batch = MomentsBatch<float, kSlots>;

  template <int kSlots, int kWidth>
  static __device__ __forceinline__ void begin(Accumulator<kSlots>& accumulator,
                                               const Vector<T, kWidth> (&first)[kInputs]) {
    set_origin(accumulator, first[0]);
  }
  template <int kSlots, int kWidth>
  __device__ __forceinline__ void add(Batch<kSlots>& batch, const Constants<kSlots>&,
                                      const Vector<T, kWidth> (&in)[kInputs]) const {
    batch.add(in[0]);
  }

  /// The sums of x and x^2, two float32 each: a mean of 1e4 standard deviations costs M2 1e-6 of itself. What float32
  /// can't hold, here and in backward, and infinities make a sum NaN; of the squares alone: the variance infinite.
  static constexpr int kPosters = 2;
  static __device__ constexpr Limbs usual(int term) { return term % 2 == 0 ? Limbs{3, 6} : Limbs{2, 5}; }
  template <int kWarps, class Sums>
  static __device__ __forceinline__ void post(const Sums& sums, int which, const auto& number, const auto& count) {
    double sum = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) {
      const double mean = number(w, 0), of_x = count(w) * mean;
      sum += which == 0 ? of_x : number(w, 1) + of_x * mean;
    }
    const auto high = static_cast<float>(sum);
    sums.post(2 * which, high);
    sums.post(2 * which + 1, static_cast<float>(sum - high));
  }
  template <class Sums>
  static __device__ __forceinline__ Accumulator<1> take(const Sums& sums, int blocks, double total, bool& unusual) {
    double s[4];
    sums.take(blocks, s, unusual);
    const double of_x = s[0] + s[1], mean = of_x / total;
    const double squares = s[2] + s[3], m2 = squares - of_x * mean;
    // Squares that are too large for a sum: the deviation is infinite.
    const bool infinite = squares != squares && mean == mean;
    return {static_cast<float>(total),
            {static_cast<float>(mean)},
            {infinite ? __int_as_float(0x7f800000) : static_cast<float>(m2 < 0 ? 0 : m2)}};
  }

  /// One thread of the launch. Momentum is given: nobody reads the counter.
  __device__ __forceinline__ void count_batch() const {
    if (running.batches && !count) *running.batches += 1;
  }

  struct Parameters {
    float gamma, beta, running_mean, running_var;
  };
  __device__ __forceinline__ Parameters parameters(int64_t c) const {
    return {affine.gamma(c), affine.beta(c), running.mean ? running.mean[c] : 0.f, running.var ? running.var[c] : 0.f};
  }
  using Summary = StatisticsSummary;
  static __device__ __forceinline__ Summary summary(const Accumulator<1>& own, float elements) {
    return StatisticsSummary::of(own.mean[0], own.m2[0], elements);
  }
  static __device__ __forceinline__ Summary summary(const Accumulator<1>& own, float elements, const PeerGroup& group) {
    return StatisticsSummary::of_peers({own.mean[0], own.m2[0], elements, 0.f}, group);
  }
  __device__ __forceinline__ float4 coefficients(const Summary& s, const Parameters& p) const {
    return {s.mean, p.gamma * (1.f / sqrtf(s.var + affine.eps)), p.beta, 0.f};
  }
  __device__ __forceinline__ void publish(const Summary& s, const Parameters& p, int64_t c) const {
    mean[c] = s.mean;
    var[c] = s.var;
    const float factor = static_cast<float>(running.momentum);
    if (running.mean && s.count > 1.f) running.mean[c] = (1.f - factor) * p.running_mean + factor * s.mean;
    if (running.var && s.count > 1.f) running.var[c] = (1.f - factor) * p.running_var + factor * s.unbiased;
    if (c != 0 || !count) return;
    *count = s.count;
    if (running.batches && s.count > 1.f) *running.batches += 1;
  }

  template <int kSlots, int kWidth>
  __device__ __forceinline__ void apply(const Coefficients<kSlots>& k, const Vector<T, kWidth> (&in)[kInputs],
                                        Vector<T, kWidth> (&out)[1]) const {
    float x[kWidth];
    [[maybe_unused]] float r[kWidth];
    in[0].unpack(x);
    if constexpr (kResidual) in[1].unpack(r);
#pragma unroll
    for (int j = 0; j < kWidth; ++j) {
      const int s = kSlots == 1 ? 0 : j;
      float y = (x[j] - k.value[0][s]) * k.value[1][s] + k.value[2][s];
      if constexpr (kResidual) y += r[j];
      x[j] = act.forward(y);
    }
    out[0] = Vector<T, kWidth>::pack(x);
  }
};

template <class T, class Act, bool kResidual = false, bool kPeers_ = false>
struct BackwardOperation {
  using Storage = T;
  static constexpr bool kPeers = kPeers_;
  static constexpr int kInputs = kResidual ? 3 : 2;  // z, d_z, r
  static constexpr int kReduced = kInputs;
  static constexpr int kOutputs = kResidual ? 2 : 1;  // d_x, d_r
  static constexpr int kCoefficients = 4;             // a, b, c, beta
  template <int kSlots>
  using Accumulator = GradientSums<float, kSlots>;
  template <int kSlots>
  struct Constants {
    float beta[kSlots];
    __device__ __forceinline__ Constants(const BackwardOperation& op, int64_t channel, int64_t channels) {
#pragma unroll
      for (int k = 0; k < kSlots; ++k) beta[k] = channel + k < channels ? op.affine.beta(channel + k) : 0.f;
    }
  };

  Act act;
  Affine<float> affine;
  const float* var;              // [C]
  float* d_weight;               // [C] or null
  float* d_bias;                 // [C] or null
  const float* count = nullptr;  // [1], elements of all processes; null: there is this one alone

  /// Adds to the accumulator itself.
  template <int kSlots>
  struct Batch {
    Accumulator<kSlots>& sums;
    __device__ __forceinline__ explicit Batch(Accumulator<kSlots>& sums_) : sums(sums_) {}
    __device__ __forceinline__ void merge_into(Accumulator<kSlots>&, float) const {}
  };

  /// y' and d_y of a vector's elements.
  template <int kSlots, int kWidth>
  __device__ __forceinline__ void recover(const Vector<T, kWidth> (&in)[kInputs], const float (&beta)[kSlots],
                                          float (&y)[kWidth], float (&d_y)[kWidth]) const {
    float z[kWidth];
    [[maybe_unused]] float r[kWidth];
    in[0].unpack(z);
    in[1].unpack(d_y);
    if constexpr (kResidual) in[2].unpack(r);
#pragma unroll
    for (int j = 0; j < kWidth; ++j) {
      y[j] = act.inverse(z[j]);
      if constexpr (kResidual) y[j] -= r[j];
      y[j] -= beta[kSlots == 1 ? 0 : j];
      d_y[j] *= act.derivative(z[j]);
    }
  }

  template <int kSlots, int kWidth>
  static __device__ __forceinline__ void begin(Accumulator<kSlots>&, const Vector<T, kWidth> (&)[kInputs]) {}
  template <int kSlots, int kWidth>
  __device__ __forceinline__ void add(Batch<kSlots>& batch, const Constants<kSlots>& constants,
                                      const Vector<T, kWidth> (&in)[kInputs]) const {
    float y[kWidth], d_y[kWidth];
    recover(in, constants.beta, y, d_y);
#pragma unroll
    for (int j = 0; j < kWidth; ++j) batch.sums.add(kSlots == 1 ? 0 : j, y[j], d_y[j]);
  }

  static constexpr int kPosters = 4;
  static __device__ constexpr Limbs usual(int) { return {3, 6}; }
  template <int kWarps, class Sums>
  static __device__ __forceinline__ void post(const Sums& sums, int which, const auto& number, const auto&) {
    float sum = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) sum += number(w, which);
    sums.post(which, sum);
  }
  template <class Sums>
  static __device__ __forceinline__ Accumulator<1> take(const Sums& sums, int blocks, double, bool& unusual) {
    double s[4];
    sums.take(blocks, s, unusual);
    return {
        {static_cast<float>(s[0])}, {static_cast<float>(s[1])}, {static_cast<float>(s[2])}, {static_cast<float>(s[3])}};
  }

  __device__ __forceinline__ void count_batch() const {}

  struct Parameters {
    float gamma, beta, rstd, sign;
  };
  __device__ __forceinline__ Parameters parameters(int64_t c) const {
    return {affine.gamma(c), affine.beta(c), 1.f / sqrtf(var[c] + affine.eps), affine.gamma_sign(c)};
  }
  using Summary = GradientSummary;
  __device__ __forceinline__ Summary summary(const Accumulator<1>& own, float elements) const {
    return {own, own, elements};
  }
  __device__ __forceinline__ Summary summary(const Accumulator<1>& own, float, const PeerGroup& group) const {
    return GradientSummary::of_peers(own, *count, group);
  }
  __device__ __forceinline__ float4 coefficients(const Summary& s, const Parameters& p) const {
    const Recovery<float> r = s.recovered(p.gamma);
    const float d_gamma = gamma_gradient(r, s.whole.a0[0], s.whole.a1[0]);
    const BackwardCoefficients<float> k = backward_coefficients(r, p.gamma, p.rstd, s.count, s.whole.a0[0], d_gamma);
    return {k.a, k.b, k.c, p.beta};
  }
  __device__ __forceinline__ void publish(const Summary& s, const Parameters& p, int64_t c) const {
    if (d_bias) d_bias[c] = s.own.a0[0];
    if (d_weight) d_weight[c] = s.d_gamma(p.gamma) * p.sign;
  }

  template <int kSlots, int kWidth>
  __device__ __forceinline__ void apply(const Coefficients<kSlots>& k, const Vector<T, kWidth> (&in)[kInputs],
                                        Vector<T, kWidth> (&out)[kOutputs]) const {
    float y[kWidth], d_y[kWidth];
    recover(in, k.value[3], y, d_y);
#pragma unroll
    for (int j = 0; j < kWidth; ++j) {
      const int s = kSlots == 1 ? 0 : j;
      y[j] = k.value[0][s] * d_y[j] + (k.value[1][s] * y[j] + k.value[2][s]);
    }
    out[0] = Vector<T, kWidth>::pack(y);
    if constexpr (kResidual) out[1] = Vector<T, kWidth>::pack(d_y);
  }
};

}  // namespace iabn::kernels::cuda
