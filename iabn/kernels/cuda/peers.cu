// The directions over the processes of a group: the slab kernels where they apply, else the two passes with the
// exchange in a small launch of its own between them. Both speak the same words, so processes may differ.

#include "iabn/kernels/cuda/peers.h"

#include <algorithm>

#include "iabn/kernels/cuda/kernels.h"
#include "iabn/kernels/cuda/launch.h"
#include "iabn/kernels/cuda/slab.h"
#include "iabn/kernels/cuda/summary.cuh"
#include "iabn/kernels/cuda/two_pass.h"

namespace iabn::kernels::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kLanes = Peers::kMost;  // of a channel
constexpr int kChannels = kThreads / kLanes;

/// A thread's channel, and what its block knows of this launch.
struct Place {
  int64_t channel;
  PeerTurn turn;

  /// All threads of the block call it; what they read before, the launch's last block may overwrite afterwards.
  __device__ explicit Place(const Peers& peers)
      : channel(int64_t{blockIdx.x} * kChannels + static_cast<int>(threadIdx.x) / kLanes) {
    __shared__ PeerTurn shared;
    __syncthreads();
    if (threadIdx.x == 0) shared = take_turn(peers, gridDim.x);
    __syncthreads();
    turn = shared;
  }
  __device__ bool leads() const { return static_cast<int>(threadIdx.x) % kLanes == 0; }
};

/// own [3, C]: count, mean, M2 of this process.
__global__ void __launch_bounds__(kThreads)
    peer_statistics_kernel(const float* own, int64_t channels, const __grid_constant__ Peers peers,
                           Running<float> running, float* mean, float* var, float* count) {
  const int64_t batches = running.batches ? *running.batches + 1 : 1;
  const Place place(peers);
  const int64_t c = place.channel;
  const bool wanted = c < channels;
  const float4 mine = wanted ? float4{own[channels + c], own[2 * channels + c], own[c], 0.f} : float4{};
  const auto s = StatisticsSummary::of_peers(mine, {peers, place.turn.half, c, wanted, kLanes});
  if (!wanted || !place.leads()) return;
  mean[c] = s.mean;
  var[c] = s.var;
  if (c == 0) *count = s.count;
  if (s.count < 2.f) return;
  const float factor = running.momentum < 0 ? 1.f / static_cast<float>(batches) : static_cast<float>(running.momentum);
  if (running.mean) running.mean[c] = (1.f - factor) * running.mean[c] + factor * s.mean;
  if (running.var) running.var[c] = (1.f - factor) * running.var[c] + factor * s.unbiased;
  if (running.batches && place.turn.last && threadIdx.x == 0) *running.batches = batches;
}

/// own, whole [4, C]: A0, A1, B1, B2 of this process, of all.
__global__ void __launch_bounds__(kThreads)
    peer_gradients_kernel(const float* own, int64_t channels, const __grid_constant__ Peers peers, const float* count,
                          Affine<float> affine, float* whole, float* d_weight, float* d_bias) {
  const Place place(peers);
  const int64_t c = place.channel;
  const bool wanted = c < channels;
  GradientSums<float, 1> mine;
  if (wanted) mine = {{own[c]}, {own[channels + c]}, {own[2 * channels + c]}, {own[3 * channels + c]}};
  const auto s = GradientSummary::of_peers(mine, *count, {peers, place.turn.half, c, wanted, kLanes});
  if (!wanted || !place.leads()) return;
  whole[c] = s.whole.a0[0];
  whole[channels + c] = s.whole.a1[0];
  whole[2 * channels + c] = s.whole.b1[0];
  whole[3 * channels + c] = s.whole.b2[0];
  if (d_bias) d_bias[c] = s.own.a0[0];
  if (d_weight) d_weight[c] = s.d_gamma(affine.gamma(c)) * affine.gamma_sign(c);
}

unsigned int blocks(int64_t channels) { return static_cast<unsigned int>((channels + kChannels - 1) / kChannels); }

template <class... Pointers>
uintptr_t bits(const Pointers*... pointers) {
  return (reinterpret_cast<uintptr_t>(pointers) | ...);
}

/// The workspace of the two passes: their own, then the sums of this process and of all.
template <class T>
size_t own_sums_offset(const Shape& shape) {
  constexpr size_t kAlignment = 256;
  return (two_pass_workspace_bytes<T>(shape) + kAlignment - 1) / kAlignment * kAlignment;
}

}  // namespace

template <class T>
size_t peer_workspace_bytes(const Shape& shape, const Peers& peers) {
  size_t bytes = own_sums_offset<T>(shape) + static_cast<size_t>(8 * shape.c) * sizeof(float);
  for (const Pass pass : {Pass::kForward, Pass::kBackward}) {
    const auto plan = slab_plan(shape, sizeof(T), 0, pass, peers.spare);
    if (plan) bytes = std::max(bytes, slab_workspace_bytes(shape, sizeof(T), *plan));
  }
  return bytes;
}

template <class T>
void peer_forward(T* x, const Shape& shape, const Affine<float>& affine, const ActivationSpec& activation,
                  const Running<float>& running, float* mean, float* var, float* count, const Peers& peers,
                  void* workspace, cudaStream_t stream) {
  const bool cumulative = running.momentum < 0 && running.batches;  // needs the counter before it counts
  if (const auto plan = slab_plan(shape, sizeof(T), bits(x), Pass::kForward, peers.spare); plan && !cumulative) {
    const bool launched =
        slab_peer_forward<T>(x, shape, affine, activation, running, mean, var, count, peers, *plan, workspace, stream);
    if (launched) return;
  }
  auto* own = reinterpret_cast<float*>(static_cast<char*>(workspace) + own_sums_offset<T>(shape));
  statistics<T>(x, shape, own, workspace, stream);
  peer_statistics_kernel<<<blocks(shape.c), kThreads, 0, stream>>>(own, shape.c, peers, running, mean, var, count);
  check_launch("peer_statistics_kernel");
  apply<T>(x, shape, mean, var, affine, activation, stream);
}

template <class T>
void peer_backward(const T* z, const T* d_z, T* d_x, const Shape& shape, const float* count, const float* var,
                   const Affine<float>& affine, const ActivationSpec& activation, float* d_weight, float* d_bias,
                   const Peers& peers, void* workspace, cudaStream_t stream) {
  if (const auto plan = slab_plan(shape, sizeof(T), bits(z, d_z, d_x), Pass::kBackward, peers.spare); plan && d_x) {
    const bool launched = slab_peer_backward<T>(z, d_z, d_x, shape, count, var, affine, activation, d_weight, d_bias,
                                                peers, *plan, workspace, stream);
    if (launched) return;
  }
  auto* own = reinterpret_cast<float*>(static_cast<char*>(workspace) + own_sums_offset<T>(shape));
  float* whole = own + 4 * shape.c;
  backward_reduce<T>(z, d_z, shape, affine, activation, own, workspace, stream);
  peer_gradients_kernel<<<blocks(shape.c), kThreads, 0, stream>>>(own, shape.c, peers, count, affine, whole, d_weight,
                                                                  d_bias);
  check_launch("peer_gradients_kernel");
  if (d_x) backward_apply<T>(z, d_z, d_x, shape, whole, count, var, affine, activation, stream);
}

#define IABN_INSTANTIATE(T)                                                                                           \
  template size_t peer_workspace_bytes<T>(const Shape&, const Peers&);                                                \
  template void peer_forward(T*, const Shape&, const Affine<float>&, const ActivationSpec&, const Running<float>&,    \
                             float*, float*, float*, const Peers&, void*, cudaStream_t);                              \
  template void peer_backward(const T*, const T*, T*, const Shape&, const float*, const float*, const Affine<float>&, \
                              const ActivationSpec&, float*, float*, const Peers&, void*, cudaStream_t)
IABN_INSTANTIATE(float);
IABN_INSTANTIATE(Half);
IABN_INSTANTIATE(BFloat16);
#undef IABN_INSTANTIATE

}  // namespace iabn::kernels::cuda
