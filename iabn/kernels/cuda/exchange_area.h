#pragma once

// Where a launch finds its exchange words (exact_sums.cuh).

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <mutex>

namespace iabn::kernels::cuda {

/// `bytes` of device memory, all zero, for one launch on `stream`, to be made while this object lives. As a rule half
/// of an area of 4 MiB (5242 channels) that this process keeps for the device and the stream, or, while the stream is
/// captured, for the stream and the graph: those launches run one after the other, take the halves in turns, and clear
/// what the one before has used. (Nobody may take the order of a stream's launches out of a graph that is being
/// captured, as cudaStreamUpdateCaptureDependencies can.) A graph clears its area where its first launch is, so that
/// every replay finds it so; once the graph is gone, another one may get the area. Otherwise, for more channels, more
/// than 64 streams or 64 graphs, and where no memory is left, `workspace`, which is cleared before the launch. Throws
/// std::runtime_error.
class ExchangeArea {
 public:
  ExchangeArea(size_t bytes, void* workspace, cudaStream_t stream);

  uint64_t* words() const { return words_; }
  /// What the launch has to clear: whole multiples of 16 bytes.
  void* to_clear() const { return to_clear_; }
  size_t bytes_to_clear() const { return bytes_to_clear_; }
  /// The launch has been made; without this call the next one finds the area as this one did.
  void launched();

 private:
  struct Kept;
  class Pool;

  size_t bytes_;
  uint64_t* words_;
  void* to_clear_ = nullptr;
  size_t bytes_to_clear_ = 0;
  Kept* kept_ = nullptr;
  std::unique_lock<std::mutex> order_;  // turns are taken in the order of the launches
};

}  // namespace iabn::kernels::cuda
