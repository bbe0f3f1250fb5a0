#pragma once

// Notices at once that another process of a job on GPUs has ended. NCCL itself would let work on a GPU wait for it
// until its timeout.

#include <memory>

#include <torch/csrc/distributed/c10d/Backend.hpp>

namespace iabn::train {

/// A thread waits for a word from the next rank, over a connection of its own: each rank watches one, in a ring. Where
/// the connection breaks before the word has come, the text goes to stderr and this process ends with exit code 1,
/// which its own watcher notices in turn.
class NeighbourWatch {
 public:
  /// gloo: for this alone, of at least two ranks.
  explicit NeighbourWatch(c10::intrusive_ptr<c10d::Backend> gloo);
  /// Stops watching; the connection stays until the process ends.
  ~NeighbourWatch();
  NeighbourWatch(const NeighbourWatch&) = delete;
  NeighbourWatch& operator=(const NeighbourWatch&) = delete;

  /// Tells the watcher that all went well, and waits for the same from the next rank. Once, at the end.
  void leave();

 private:
  struct State;
  std::shared_ptr<State> state_;
};

}  // namespace iabn::train
