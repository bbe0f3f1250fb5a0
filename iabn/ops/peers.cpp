// The operators over the GPUs of several processes (schemas.cpp), and the memory through which they exchange numbers.

#include "iabn/kernels/cuda/peers.h"

#include <cstring>
#include <map>
#include <mutex>
#include <vector>

#include "iabn/kernels/cuda/launch.h"
#include "iabn/ops/cuda_context.h"
#include "iabn/ops/front.h"

namespace iabn::ops {
namespace {

using kernels::cuda::check;
using kernels::cuda::PeerCard;
using kernels::cuda::Peers;

Peers parse_peers(const char* op, const std::vector<int64_t>& numbers, const Tensor& x) {
  constexpr size_t kBefore = 4;
  Peers peers;
  peers.size = static_cast<int>(numbers.size()) - static_cast<int>(kBefore);
  if (peers.size < 1 || peers.size > Peers::kMost) {
    fail(op, "peers must be {rank, spare, channels, timeout, addresses of 1 to ", Peers::kMost, " areas}, got ",
         numbers.size(), " numbers");
  }
  peers.rank = static_cast<int>(numbers[0]);
  peers.spare = static_cast<int>(numbers[1]);
  peers.channels = numbers[2];
  peers.timeout_ns = static_cast<uint64_t>(numbers[3]) * 1'000'000;
  bool valid = peers.rank >= 0 && peers.rank < peers.size && peers.spare >= 0 && numbers[3] > 0;
  for (int rank = 0; rank < peers.size; ++rank) {
    peers.areas[rank] = reinterpret_cast<uint64_t*>(numbers[kBefore + static_cast<size_t>(rank)]);
    valid = valid && peers.areas[rank] != nullptr;
  }
  if (!valid) fail(op, "peers must come from use_peer_memory: a rank, number or address is out of range");
  if (x.size(1) > peers.channels) {
    fail(op, "the layer has ", x.size(1), " channels, the areas have room for ", peers.channels,
         ": use the operators over collectives (abn_statistics, ...)");
  }
  if (x.scalar_type() == ScalarType::Double) {
    fail(op, "float64 does not fit the exchanged words: use the operators over collectives (abn_statistics, ...)");
  }
  return peers;
}

/// Launches of a device run one after the other, as peers.h asks: on another stream than the last one's, the stream
/// waits. A captured launch is left to whoever replays the graph.
class InOrder {
 public:
  InOrder(int device, cudaStream_t stream) : device_(device), stream_(stream), lock_(mutex(), std::defer_lock) {
    cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
    check(cudaStreamIsCapturing(stream, &capture), "cudaStreamIsCapturing");
    captured_ = capture != cudaStreamCaptureStatusNone;
    if (captured_) return;
    check(cudaStreamGetId(stream, &id_), "cudaStreamGetId");
    lock_.lock();  // until the launch has been recorded
    const auto found = last().find(device);
    if (found == last().end() || found->second.stream_id == id_) return;
    check(cudaStreamWaitEvent(stream, found->second.done), "cudaStreamWaitEvent");
  }
  /// After the launch.
  void done() {
    if (captured_) return;
    Last& last_launch = last()[device_];
    if (!last_launch.done) {
      check(cudaEventCreateWithFlags(&last_launch.done, cudaEventDisableTiming), "cudaEventCreate");
    }
    check(cudaEventRecord(last_launch.done, stream_), "cudaEventRecord");
    last_launch.stream_id = id_;
    lock_.unlock();
  }

 private:
  struct Last {
    unsigned long long stream_id = 0;
    cudaEvent_t done = nullptr;
  };
  static std::mutex& mutex() {
    static std::mutex instance;
    return instance;
  }
  static std::map<int, Last>& last() {
    static std::map<int, Last> instance;
    return instance;
  }

  int device_;
  cudaStream_t stream_;
  unsigned long long id_ = 0;
  bool captured_ = false;
  std::unique_lock<std::mutex> lock_;
};

/// Calls f with a value of the C++ type of x's elements, which are no float64.
template <class F>
void with_peer_type(const Tensor& x, F&& f) {
  with_storage_type(x, [&](auto type) {
    if constexpr (sizeof(type) <= sizeof(float)) f(type);
  });
}

std::tuple<Tensor, Tensor, Tensor> peer_forward(Tensor x, OptionalTensor weight, OptionalTensor bias,
                                                OptionalTensor running_mean, OptionalTensor running_var,
                                                OptionalTensor num_batches_tracked, std::optional<double> momentum,
                                                double eps, int64_t activation, double activation_param, int64_t gamma,
                                                std::vector<int64_t> peer_numbers) {
  constexpr const char* op = "abn_peer_forward_";
  check_activation_tensor(op, "x", x);
  const Peers peers = parse_peers(op, peer_numbers, x);
  check_writable(op, "x", x);
  check_channels(op, "weight", weight, x);
  check_channels(op, "bias", bias, x);
  check_running(op, running_mean, running_var, num_batches_tracked, momentum, x);
  check_eps(op, eps);
  const ActivationSpec spec = check_activation(op, activation, activation_param, /*invertible=*/true);
  const kernels::GammaMode mode = check_gamma(op, gamma);

  CudaContext context(x);
  Tensor mean = empty_small(x, {x.size(1)}, ScalarType::Float), var = empty_small(x, {x.size(1)}, ScalarType::Float);
  Tensor count = empty_small(x, {}, ScalarType::Float);
  Tensor dense = to_dense(x);
  with_peer_type(x, [&](auto type) {
    using T = decltype(type);
    const ChannelValues<float> w(weight, ScalarType::Float), b(bias, ScalarType::Float);
    RunningValues<float> running(running_mean, running_var, num_batches_tracked, momentum, ScalarType::Float);
    const kernels::Shape shape = *dense_shape(dense);
    InOrder order(x.get_device_index(), context.stream);
    kernels::cuda::peer_forward<T>(
        static_cast<T*>(dense.mutable_data_ptr()), shape,
        kernels::Affine<float>{w.data(), b.data(), mode, static_cast<float>(eps)}, spec, running.get(),
        static_cast<float*>(mean.mutable_data_ptr()), static_cast<float*>(var.mutable_data_ptr()),
        static_cast<float*>(count.mutable_data_ptr()), peers,
        context.allocate(kernels::cuda::peer_workspace_bytes<T>(shape, peers)), context.stream);
    order.done();
    running.write_back();
  });
  if (dense.get() != x.get()) torch::stable::copy_(x, dense);
  return {mean, var, count};
}

std::tuple<Tensor, Tensor, Tensor> peer_backward(Tensor z, Tensor d_z, Tensor count, Tensor var, OptionalTensor weight,
                                                 OptionalTensor bias, double eps, int64_t activation,
                                                 double activation_param, int64_t gamma, bool needs_d_x,
                                                 bool needs_d_parameters, std::vector<int64_t> peer_numbers) {
  constexpr const char* op = "abn_peer_backward";
  check_activation_tensor(op, "z", z);
  const Peers peers = parse_peers(op, peer_numbers, z);
  check_like(op, "d_z", d_z, "z", z);
  check_channels(op, "var", var, z);
  check_channels(op, "weight", weight, z);
  check_channels(op, "bias", bias, z);
  if (count.numel() != 1 || count.scalar_type() != ScalarType::Float ||
      count.get_device_index() != z.get_device_index()) {
    fail(op, "count must be one float32 on z's device, as abn_peer_forward_ returns it, got ",
         dtype_string(count.scalar_type()), " of shape ", shape_string(count));
  }
  check_eps(op, eps);
  const ActivationSpec spec = check_activation(op, activation, activation_param, /*invertible=*/true);
  const kernels::GammaMode mode = check_gamma(op, gamma);

  CudaContext context(z);
  const Gradients g(z, d_z, needs_d_x);
  const int64_t channels = needs_d_parameters ? z.size(1) : 0;
  Tensor d_weight = empty_small(z, {channels}, ScalarType::Float);
  Tensor d_bias = empty_small(z, {channels}, ScalarType::Float);
  with_peer_type(z, [&](auto type) {
    using T = decltype(type);
    const ChannelValues<float> v(var, ScalarType::Float), w(weight, ScalarType::Float), b(bias, ScalarType::Float);
    InOrder order(z.get_device_index(), context.stream);
    kernels::cuda::peer_backward<T>(
        g.z_data<T>(), g.d_z_data<T>(), g.d_x_data<T>(), g.shape, static_cast<const float*>(count.const_data_ptr()),
        v.data(), kernels::Affine<float>{w.data(), b.data(), mode, static_cast<float>(eps)}, spec,
        data_or_null<float>(d_weight), data_or_null<float>(d_bias), peers,
        context.allocate(kernels::cuda::peer_workspace_bytes<T>(g.shape, peers)), context.stream);
    order.done();
  });
  return {g.d_x, d_weight, d_bias};
}

void check_card(const char* op, const Tensor& card) {
  if (!card.is_cpu() || card.scalar_type() != ScalarType::Byte || card.numel() != int64_t{PeerCard::kBytes} ||
      !card.is_contiguous()) {
    fail(op, "card must be a contiguous uint8 tensor of ", PeerCard::kBytes, " bytes on the CPU, got ",
         dtype_string(card.scalar_type()), " of shape ", shape_string(card));
  }
}

int64_t peer_area(Tensor card, int64_t device, int64_t channels, int64_t processes) {
  constexpr const char* op = "peer_area";
  check_card(op, card);
  if (channels < 1 || processes < 1 || processes > Peers::kMost) {
    fail(op, "needs at least one channel and 1 to ", Peers::kMost, " processes, got ", channels, " and ", processes);
  }
  const torch::stable::accelerator::DeviceGuard guard(static_cast<int32_t>(device));
  PeerCard own;
  uint64_t* area = kernels::cuda::new_peer_area(channels, static_cast<int>(processes), own);
  std::memcpy(card.mutable_data_ptr(), &own, sizeof(own));
  return reinterpret_cast<int64_t>(area);
}

int64_t peer_open(Tensor card, int64_t device) {
  check_card("peer_open", card);
  const torch::stable::accelerator::DeviceGuard guard(static_cast<int32_t>(device));
  PeerCard other;
  std::memcpy(&other, card.const_data_ptr(), sizeof(other));
  return reinterpret_cast<int64_t>(kernels::cuda::open_peer_area(other));
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(iabn, CUDA, m) {
  m.impl("abn_peer_forward_", TORCH_BOX(&peer_forward));
  m.impl("abn_peer_backward", TORCH_BOX(&peer_backward));
}

STABLE_TORCH_LIBRARY_IMPL(iabn, CPU, m) {
  m.impl("peer_area", TORCH_BOX(&peer_area));
  m.impl("peer_open", TORCH_BOX(&peer_open));
}

}  // namespace iabn::ops
