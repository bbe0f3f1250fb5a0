#pragma once

// How the cluster kernels (cluster.cuh) merge the accumulators of many threads and blocks: all at a time instead of in
// pairs, the mean first and then M2 about it, so that nothing is divided per part and no step waits for a quotient.

#include "iabn/kernels/cuda/accumulators.cuh"

namespace iabn::kernels::cuda {

/// The sum over `lanes` neighbouring lanes (a power of two), the same bits in all of them. All lanes of the warp call
/// it.
__device__ __forceinline__ float sum_over(int lanes, float value) {
  for (int distance = lanes / 2; distance > 0; distance /= 2) {
    value += __shfl_xor_sync(0xffffffffu, value, distance);
  }
  return value;
}

/// An accumulator of one channel as it travels.
template <class Accumulator>
__device__ __forceinline__ float4 packed(Accumulator a) {
  static_assert(Accumulator::kNumbers <= 4);
  float n[4] = {};
  int i = 0;
  a.for_each([&](float& number) { n[i++] = number; });
  return {n[0], n[1], n[2], n[3]};
}
template <class Accumulator>
__device__ __forceinline__ Accumulator unpacked(float4 numbers) {
  const float n[4] = {numbers.x, numbers.y, numbers.z, numbers.w};
  Accumulator a;
  int i = 0;
  a.for_each([&](float& number) { number = n[i++]; });
  return a;
}

/// The slots from `split` on, or those below, as one channel.
template <bool kUpper, int kSlots>
__device__ __forceinline__ Moments<float, 1> fold(const Moments<float, kSlots>& a, int split) {
  const auto wanted = [&](int k) { return kUpper == (k >= split); };
  const float origin = a.mean[kUpper ? kSlots - 1 : 0];
  const float slots = static_cast<float>(kUpper ? kSlots - split : split);
  float shift = 0.f;
#pragma unroll
  for (int k = 0; k < kSlots; ++k) shift += wanted(k) ? a.mean[k] - origin : 0.f;
  const float mean = origin + ratio(shift, slots);
  float m2 = 0.f;
#pragma unroll
  for (int k = 0; k < kSlots; ++k) {
    const float distance = a.mean[k] - mean;
    m2 += wanted(k) ? a.m2[k] + a.count * distance * distance : 0.f;
  }
  return {a.count * slots, {mean}, {m2}};
}
template <bool kUpper, int kSlots>
__device__ __forceinline__ GradientSums<float, 1> fold(const GradientSums<float, kSlots>& a, int split) {
  GradientSums<float, 1> all;
#pragma unroll
  for (int k = 0; k < kSlots; ++k) {
    if (kUpper == (k >= split)) all.merge(a.slot(k));
  }
  return all;
}

/// Merges part(0) ... part(parts - 1) of a channel, shared by `lanes` neighbouring lanes (a power of two); the same in
/// all of them. All lanes of the warp call it. Part 0 is empty only where all are. The mean is taken about part 0's,
/// which may be far off, and corrected by what M2's differences say.
template <class Part>
__device__ __forceinline__ void merge_parts(Moments<float, 1>& all, int parts, int lanes, const Part& part) {
  const int lane = static_cast<int>(threadIdx.x) % lanes;
  const float origin = part(0).mean[0];
  float count = 0.f, sum = 0.f;
#pragma unroll 4
  for (int i = lane; i < parts; i += lanes) {
    const Moments<float, 1> one = part(i);
    count += one.count;
    sum += one.count > 0.f ? one.count * (one.mean[0] - origin) : 0.f;
  }
  count = sum_over(lanes, count);
  const float mean = origin + ratio(sum_over(lanes, sum), count);
  float m2 = 0.f, rest = 0.f;
#pragma unroll 4
  for (int i = lane; i < parts; i += lanes) {
    const Moments<float, 1> one = part(i);
    const float distance = one.mean[0] - mean;
    rest += one.count > 0.f ? one.count * distance : 0.f;
    m2 += one.count > 0.f ? one.m2[0] + one.count * distance * distance : 0.f;
  }
  rest = sum_over(lanes, rest);
  const float correction = ratio(rest, count);
  const float about_mean = sum_over(lanes, m2) - rest * correction;
  all = {count, {mean + correction}, {about_mean < 0.f ? 0.f : about_mean}};
}
template <class Part>
__device__ __forceinline__ void merge_parts(GradientSums<float, 1>& all, int parts, int lanes, const Part& part) {
#pragma unroll 4
  for (int i = static_cast<int>(threadIdx.x) % lanes; i < parts; i += lanes) all.merge(part(i));
  all.for_each([&](float& number) { number = sum_over(lanes, number); });
}

}  // namespace iabn::kernels::cuda
