#pragma once

// Notices at once that another process of a job on GPUs has ended. NCCL itself would let work on a GPU wait for it
// until its timeout.

#include <chrono>
#include <memory>

#include <torch/csrc/distributed/c10d/Backend.hpp>

namespace iabn::train {

/// Each rank watches the next one, in a ring, over a connection of its own: it gets a word from it every ten seconds,
/// or three times per `timeout` where that is more often. Where the connection breaks, or no word comes within
/// `timeout` (the machine is lost), the text goes to stderr and this process ends with exit code 1, which its own
/// watcher notices in turn. What is in stdout's buffer is lost: whoever holds its lock may never give it back.
class NeighbourWatch {
 public:
  /// gloo: for this alone, of at least two ranks.
  NeighbourWatch(c10::intrusive_ptr<c10d::Backend> gloo, std::chrono::milliseconds timeout);
  /// Stops watching; the connection stays until the process ends.
  ~NeighbourWatch();
  NeighbourWatch(const NeighbourWatch&) = delete;
  NeighbourWatch& operator=(const NeighbourWatch&) = delete;

  /// Tells the watcher that all went well, and waits for the same from the next rank; both for at most `timeout`. From
  /// then on nothing that happens to the others ends this process: where the next rank does not take leave, a warning
  /// goes to stderr. Once, at the end.
  void leave();

 private:
  struct State;
  std::shared_ptr<State> state_;
  std::chrono::milliseconds timeout_;
};

}  // namespace iabn::train
