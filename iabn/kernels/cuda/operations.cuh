#pragma once

// The two directions as the on-chip kernels see them: what is reduced per channel, how the sums of all blocks become
// four coefficients and the published results, and how the coefficients apply to a vector. Formulas:
// iabn/kernels/kernels.h.
//
// An operation offers
//   kInputs, kOutputs        tensors that are read and written
//   kReduced                 inputs that the reduction needs, the first ones
//   kPartialWords            64-bit words of a block's partial result of a channel (exchange.cuh)
//   kCoefficients            numbers of a channel that an application needs
//   kPeers                   sums are those of several processes
//   Accumulator<slots>       see accumulators.cuh
//   Constants<slots>         per-channel numbers that the reduction needs
//   begin, Batch<slots>      the reduction: begin before a channel's first vectors; add vectors to a batch, merge it
//   merge_partials           the sums of all blocks, by the lanes of one channel
//   parameters               what is known of a channel before the sums are
//   summary                  what the sums say about a channel: this process's, with a PeerGroup those of several
//   coefficients, apply      the numbers of the application, for which everybody waits; and the output vectors
//   publish                  what the caller gets of a channel
//
// The residual form, z = act(y + r), has r as its last input; backward recovers y' = act^-1(z) - r - beta and returns
// d_r = d_y beside d_x.

#include "iabn/kernels/cuda/accumulators.cuh"
#include "iabn/kernels/cuda/activations.cuh"
#include "iabn/kernels/cuda/exchange.cuh"
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
  static constexpr int kOutputs = 1;  // z
  static constexpr int kPartialWords = 1;
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

  static __device__ __forceinline__ void post_partial(uint64_t* at, const Accumulator<1>& a) {
    post(at, a.mean[0], a.m2[0]);
  }
  /// Mean first, about one of the parts' means, then M2 about the mean: no division per part. Missing parts count 0.
  template <int kRounds>
  static __device__ __forceinline__ Accumulator<1> merge_partials(const uint64_t (&parts)[kRounds][1],
                                                                  const float (&counts)[kRounds], float total,
                                                                  int lanes) {
    const float origin = __shfl_sync(0xffffffffu, low_of(parts[0][0]), 0, lanes);
    float sum = 0.f;
#pragma unroll
    for (int r = 0; r < kRounds; ++r) {
      if (counts[r] > 0.f) sum += counts[r] * (low_of(parts[r][0]) - origin);
    }
    const float mean = origin + ratio(sum_over(lanes, sum), total);
    float m2 = 0.f;
#pragma unroll
    for (int r = 0; r < kRounds; ++r) {
      const float distance = low_of(parts[r][0]) - mean;
      if (counts[r] > 0.f) m2 += high_of(parts[r][0]) + counts[r] * distance * distance;
    }
    return {total, {mean}, {sum_over(lanes, m2)}};
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
  static constexpr int kPartialWords = 2;
  static constexpr int kCoefficients = 4;  // a, b, c, beta
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

  static __device__ __forceinline__ void post_partial(uint64_t* at, const Accumulator<1>& a) {
    post(at, a.a0[0], a.a1[0]);
    post(at + 1, a.b1[0], a.b2[0]);
  }
  template <int kRounds>
  static __device__ __forceinline__ Accumulator<1> merge_partials(const uint64_t (&parts)[kRounds][2],
                                                                  const float (&counts)[kRounds], float, int lanes) {
    Accumulator<1> all;
#pragma unroll
    for (int r = 0; r < kRounds; ++r) {
      if (counts[r] == 0.f) continue;
      all.a0[0] += low_of(parts[r][0]);
      all.a1[0] += high_of(parts[r][0]);
      all.b1[0] += low_of(parts[r][1]);
      all.b2[0] += high_of(parts[r][1]);
    }
    return {{sum_over(lanes, all.a0[0])},
            {sum_over(lanes, all.a1[0])},
            {sum_over(lanes, all.b1[0])},
            {sum_over(lanes, all.b2[0])}};
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
