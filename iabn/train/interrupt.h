#pragma once

// Ctrl-C and SIGTERM as a request that the training loop honours after the step at hand.

#include <exception>

namespace iabn::train {

/// While one lives, the first SIGINT or SIGTERM is only noted; a second one ends the process at once, as without it.
class InterruptGuard {
 public:
  InterruptGuard();
  ~InterruptGuard();
  InterruptGuard(const InterruptGuard&) = delete;
  InterruptGuard& operator=(const InterruptGuard&) = delete;
};

/// Thrown by work that leaves nothing to save.
struct Interrupted : std::exception {
  explicit Interrupted(int number) : signal(number) {}
  const char* what() const noexcept override { return "interrupted"; }
  int signal;
};

/// The signal noted since the last guard was made, or 0.
int pending_interrupt();

}  // namespace iabn::train
