#pragma once

// The processes of a group, one GPU each, as kernels see them: every process has an area in its device's memory that
// all of them write. Host side; the exchange itself is peers.cuh.

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <span>

#include "iabn/kernels/kernels.h"

namespace iabn::kernels::cuda {

struct Peers {
  static constexpr int kMost = 8;
  static constexpr int kHeaderWords = 16;  // of 64 bits, first in an area: whose turn it is (peers.cuh)
  static constexpr int kWords = 2;         // of a channel and a process, twice in an area

  uint64_t* areas[kMost] = {};  // by rank, this process's own among them
  int rank = 0;
  int size = 0;             // 0: no exchange
  int spare = 0;            // multiprocessors that the kernels leave to others (directions below)
  int64_t channels = 0;     // of the largest layer
  uint64_t timeout_ns = 0;  // a kernel that waits longer for another process ends with an error
};

/// What another process must know of an area to open it.
struct PeerCard {
  static constexpr size_t kBytes = 128;
  cudaIpcMemHandle_t handle;
  char device[16];  // its UUID
  char host[48];    // identifier of the running system
};
static_assert(sizeof(PeerCard) == PeerCard::kBytes);

/// An area on the current device for layers of up to `channels` channels, kept until the process ends. Waits for the
/// device. Throws std::runtime_error.
uint64_t* new_peer_area(int64_t channels, int size, PeerCard& card);

/// Another process's area in this one's address space; null where it is on another host, on the current device itself,
/// or can't be reached from it. Kept until the process ends.
uint64_t* open_peer_area(const PeerCard& card);

/// forward() with statistics of all processes (kernels.h); `count` [1] gets the elements per channel of them all.
/// shape.n may be 0. Running statistics stay as they are where the count is below 2.
///
/// All processes call it in the same order over all groups, with the same number of channels; shapes and dtypes of 16
/// and 32 bits may differ. Launches of a device must run one after the other, whatever their group and stream, replayed
/// graphs included. All kernels together that wait for another process meanwhile (NCCL's) must find `spare`
/// multiprocessors enough, or neither side comes to an end.
template <class T>
void peer_forward(T* x, const Shape& shape, const Affine<float>& affine, const ActivationSpec& activation,
                  const Running<float>& running, float* mean, float* var, float* count, const Peers& peers,
                  void* workspace, cudaStream_t stream);

/// backward() with statistics of all processes: d_x is that of the whole batch, d_weight and d_bias are of this
/// process's samples. count: as peer_forward gave it.
template <class T>
void peer_backward(const T* z, const T* d_z, T* d_x, const Shape& shape, const float* count, const float* var,
                   const Affine<float>& affine, const ActivationSpec& activation, float* d_weight, float* d_bias,
                   const Peers& peers, void* workspace, cudaStream_t stream);

/// Enough for either.
template <class T>
size_t peer_workspace_bytes(const Shape& shape, const Peers& peers);

}  // namespace iabn::kernels::cuda
