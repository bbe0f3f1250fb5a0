#pragma once

// Ctrl-C and SIGTERM as a request that the training loop honours after the step at hand.

#include <chrono>
#include <exception>

namespace iabn::train {

/// While one lives, the first SIGINT or SIGTERM is only noted; a second one ends the process at once, as without it.
/// What comes within `together` of the first counts as the same.
class InterruptGuard {
 public:
  explicit InterruptGuard(std::chrono::seconds together = std::chrono::seconds(0));
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
