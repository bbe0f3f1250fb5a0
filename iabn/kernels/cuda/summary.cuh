#pragma once

// What the sums over all elements of a channel say about it: of this process's batch, or of those of several processes.

#include "iabn/kernels/cuda/accumulators.cuh"
#include "iabn/kernels/cuda/peers.cuh"

namespace iabn::kernels::cuda {

/// How the lanes of one channel reach the other processes.
struct PeerGroup {
  const Peers& peers;
  int half;
  int64_t channel;
  bool wanted;
  int lanes;

  __device__ __forceinline__ PeerNumbers trade(float4 mine) const {
    return {peers, half, channel, wanted, lanes, mine};
  }
};

struct StatisticsSummary {
  float mean, var, unbiased, count;

  static __device__ __forceinline__ StatisticsSummary of(float mean, float m2, float count) {
    return {mean, m2 / count, m2 / (count > 1.f ? count - 1.f : 1.f), count};
  }
  /// mine: mean, M2, count. Mean first, about that of the first process that has any, then M2 about the mean, in the
  /// order of the ranks: the same bits in every process, and a group of one changes nothing.
  static __device__ __forceinline__ StatisticsSummary of_peers(float4 mine, const PeerGroup& group) {
    const PeerNumbers numbers = group.trade(mine);
    float count = 0.f, origin = 0.f;
    for (int rank = group.peers.size - 1; rank >= 0; --rank) {
      const float4 one = numbers.of(rank);
      count += one.z;
      if (one.z > 0.f) origin = one.x;
    }
    const float elements = count > 0.f ? count : 1.f;
    float sum = 0.f;
    for (int rank = 0; rank < group.peers.size; ++rank) {
      const float4 one = numbers.of(rank);
      if (one.z > 0.f) sum += one.z * (one.x - origin);
    }
    const float mean = origin + sum / elements;
    float m2 = 0.f;
    for (int rank = 0; rank < group.peers.size; ++rank) {
      const float4 one = numbers.of(rank);
      const float distance = one.x - mean;
      if (one.z > 0.f) m2 += one.y + one.z * distance * distance;
    }
    StatisticsSummary result = of(mean, m2, elements);
    result.count = count;
    return result;
  }
};

struct GradientSummary {
  GradientSums<float, 1> own, whole;  // of this process, of all
  float count;                        // elements per channel, of all

  static __device__ __forceinline__ GradientSummary of_peers(const GradientSums<float, 1>& own, float count,
                                                             const PeerGroup& group) {
    const PeerNumbers numbers = group.trade({own.a0[0], own.a1[0], own.b1[0], own.b2[0]});
    GradientSummary result{own, {}, count};
    for (int rank = 0; rank < group.peers.size; ++rank) {
      const float4 one = numbers.of(rank);
      result.whole.merge({{one.x}, {one.y}, {one.z}, {one.w}});
    }
    return result;
  }

  __device__ __forceinline__ Recovery<float> recovered(float gamma) const {
    return recovery(gamma, count, whole.b1[0], whole.b2[0]);
  }
  /// With respect to gamma, of this process's samples.
  __device__ __forceinline__ float d_gamma(float gamma) const {
    return count > 0.f ? gamma_gradient(recovered(gamma), own.a0[0], own.a1[0]) : 0.f;
  }
};

}  // namespace iabn::kernels::cuda
