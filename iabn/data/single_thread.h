#pragma once

namespace iabn::data {

/// While it lives, ATen's operators called by this thread use this thread only; other threads are not affected.
/// Images are resized by many workers at once: teams of threads below each of them wait for one another and cost five
/// times the speed (130 instead of 610 photographs per second on two busy cores).
class SingleThread {
 public:
  SingleThread();
  ~SingleThread();
  SingleThread(const SingleThread&) = delete;
  SingleThread& operator=(const SingleThread&) = delete;

 private:
  int before_;
};

}  // namespace iabn::data
