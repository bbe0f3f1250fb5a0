#pragma once

// How long something has taken.

#include <chrono>

namespace iabn::train {

class Clock {
 public:
  /// Since the object was made.
  double seconds() const { return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count(); }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

}  // namespace iabn::train
