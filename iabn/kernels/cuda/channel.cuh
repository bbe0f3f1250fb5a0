#pragma once

// One launch per direction for contiguous tensors whose channels fit into the registers of one block: a block per
// channel, no waiting for others, any alignment, any device. Bytes, in tensors: forward reads 1 and writes 1, backward
// reads 2 and writes 1. Included by the channel_<type>.cu files alone, one storage type each.

#include <array>

#include "iabn/kernels/cuda/channel.h"
#include "iabn/kernels/cuda/launch.h"
#include "iabn/kernels/cuda/operations.cuh"

namespace iabn::kernels::cuda {
namespace {

/// A channel as a sequence of vectors: `runs` runs of `run_vectors`, which lie `stride` elements apart.
template <class Op>
struct ChannelJob {
  Op op;
  const typename Op::Storage* inputs[Op::kInputs];
  typename Op::Storage* out;
  int vectors;  // of a channel
  int run_vectors;
  int64_t stride;
};

/// Element offsets of a thread's vectors: every kThreads-th of the channel.
template <int kWidth, int kThreads>
class ChannelCursor {
 public:
  __device__ __forceinline__ ChannelCursor(int run_vectors, int64_t stride, int64_t channel)
      : run_vectors_(run_vectors), stride_(stride) {
    const int thread = static_cast<int>(threadIdx.x);
    const int run = thread / run_vectors;
    place_ = thread - run * run_vectors;
    runs_ = kThreads / run_vectors;
    turn_ = kThreads - runs_ * run_vectors;
    origin_ = run * stride + channel * run_vectors * kWidth;
  }

  __device__ __forceinline__ int64_t next() {
    const int64_t result = origin_ + place_ * kWidth;
    origin_ += runs_ * stride_;
    place_ += turn_;
    if (place_ >= run_vectors_) {
      place_ -= run_vectors_;
      origin_ += stride_;
    }
    return result;
  }

 private:
  int run_vectors_, place_, runs_, turn_;
  int64_t stride_, origin_;
};

template <class Op, int kWidth, int kVectors, int kThreads>
__global__ void __launch_bounds__(kThreads) channel_kernel(const ChannelJob<Op> job) {
  using V = Vector<typename Op::Storage, kWidth>;
  using Accumulator = typename Op::template Accumulator<1>;
  __shared__ float shared[Accumulator::kNumbers][kThreads / 2];
  __shared__ float4 published;
  const int thread = static_cast<int>(threadIdx.x);
  const int64_t channel = blockIdx.x;
  const int64_t channels = gridDim.x;
  if (channel == 0 && thread == 0) job.op.count_batch();

  // Pass 1: everything into registers.
  V in[kVectors][Op::kInputs];
  ChannelCursor<kWidth, kThreads> cursor(job.run_vectors, job.stride, channel);
#pragma unroll
  for (int u = 0; u < kVectors; ++u) {
    const int64_t offset = cursor.next();
    if (thread + u * kThreads < job.vectors) {
#pragma unroll
      for (int i = 0; i < Op::kInputs; ++i) in[u][i] = V::load(job.inputs[i] + offset);
    }
  }

  // Pass 2: the block's sums; one thread turns them into coefficients.
  const typename Op::template Constants<1> constants(job.op, channel, channels);
  const auto parameters = job.op.parameters(channel);
  Accumulator sums;
  if (thread < job.vectors) {
    Op::begin(sums, in[0]);
    typename Op::template Batch<1> batch(sums);
#pragma unroll
    for (int u = 0; u < kVectors; ++u) {
      if (thread + u * kThreads < job.vectors) job.op.add(batch, constants, in[u]);
    }
    const int mine = (job.vectors - thread + kThreads - 1) / kThreads;
    batch.merge_into(sums, static_cast<float>(mine * kWidth));
  }
  merge_block<kThreads>(sums, shared);
  if (thread == 0) {
    const float count = static_cast<float>(job.vectors) * kWidth;
    const auto summary = job.op.summary(sums, count);
    published = job.op.coefficients(summary, parameters);
    job.op.publish(summary, parameters, channel);
  }
  __syncthreads();

  // Pass 3: from registers to memory.
  const Coefficients<1> coefficients{{{published.x}, {published.y}, {published.z}, {published.w}}};
  ChannelCursor<kWidth, kThreads> again(job.run_vectors, job.stride, channel);  // cheaper than keeping the offsets
#pragma unroll
  for (int u = 0; u < kVectors; ++u) {
    const int64_t offset = again.next();
    if (thread + u * kThreads < job.vectors) {
      V out[1];
      job.op.apply(coefficients, in[u], out);
      out[0].store(job.out + offset);
    }
  }
}

template <int kWidth, class Op>
void launch_channel(const ChannelJob<Op>& job, int64_t channels, cudaStream_t stream) {
  const auto grid = static_cast<unsigned int>(channels);
  constexpr int kThreads = ChannelPolicy::kThreads;
  constexpr int kVectors = ChannelPolicy::kVectors;
  constexpr bool kLarge = ChannelPolicy::may_be_large(kWidth * sizeof(typename Op::Storage), Op::kInputs);
  if (job.vectors <= kVectors / 2 * kThreads) {
    channel_kernel<Op, kWidth, kVectors / 2, kThreads><<<grid, kThreads, 0, stream>>>(job);
  } else if (!kLarge || job.vectors <= kVectors * kThreads) {
    channel_kernel<Op, kWidth, kVectors, kThreads><<<grid, kThreads, 0, stream>>>(job);
  } else {
    constexpr int kAll = kLarge ? 2 * kThreads : kThreads;
    channel_kernel<Op, kWidth, kVectors, kAll><<<grid, kAll, 0, stream>>>(job);
  }
  check_launch("channel_kernel");
}

template <class Op>
void launch_channels(const Op& op, const std::array<const typename Op::Storage*, Op::kInputs>& inputs,
                     typename Op::Storage* out, const Shape& shape, int width, cudaStream_t stream) {
  ChannelJob<Op> job{
      op, {}, out, static_cast<int>(shape.count() / width), static_cast<int>(shape.s / width), shape.c * shape.s};
  for (int i = 0; i < Op::kInputs; ++i) job.inputs[i] = inputs[i];
  if constexpr (sizeof(typename Op::Storage) == 2) {
    if (width == 8) return launch_channel<8>(job, shape.c, stream);
  }
  if (width == 4) return launch_channel<4>(job, shape.c, stream);
  if (width == 2) return launch_channel<2>(job, shape.c, stream);
  launch_channel<1>(job, shape.c, stream);
}

}  // namespace

template <class T>
void channel_forward(T* x, const Shape& shape, const Affine<float>& affine, const ActivationSpec& activation,
                     const Running<float>& running, float* mean, float* var, int width, cudaStream_t stream) {
  with_compiled_activation<T>(activation, [&](const auto& act) {
    using Act = std::decay_t<decltype(act)>;
    launch_channels(ForwardOperation<T, Act>{act, affine, running, mean, var}, {x}, x, shape, width, stream);
  });
}

template <class T>
void channel_backward(const T* z, const T* d_z, T* d_x, const Shape& shape, const float* var,
                      const Affine<float>& affine, const ActivationSpec& activation, float* d_weight, float* d_bias,
                      int width, cudaStream_t stream) {
  with_compiled_activation<T>(activation, [&](const auto& act) {
    using Act = std::decay_t<decltype(act)>;
    launch_channels(BackwardOperation<T, Act>{act, affine, var, d_weight, d_bias}, {z, d_z}, d_x, shape, width, stream);
  });
}

#define IABN_INSTANTIATE_CHANNEL(T)                                                                                   \
  template void channel_forward(T*, const Shape&, const Affine<float>&, const ActivationSpec&, const Running<float>&, \
                                float*, float*, int, cudaStream_t);                                                   \
  template void channel_backward(const T*, const T*, T*, const Shape&, const float*, const Affine<float>&,            \
                                 const ActivationSpec&, float*, float*, int, cudaStream_t)

}  // namespace iabn::kernels::cuda
