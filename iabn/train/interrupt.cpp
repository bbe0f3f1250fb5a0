#include "iabn/train/interrupt.h"

#include <atomic>
#include <csignal>
#include <cstdint>
#include <ctime>

namespace iabn::train {
namespace {

// Lock-free: a handler may use nothing else, and any thread may run it.
std::atomic<int> pending = 0;
std::atomic<int64_t> first_time = 0;     // nanoseconds; 0: none yet
std::atomic<int64_t> together_time = 0;  // nanoseconds
struct sigaction old_int, old_term;

int64_t now() {
  timespec time{};
  ::clock_gettime(CLOCK_MONOTONIC, &time);
  return time.tv_sec * int64_t{1000000000} + time.tv_nsec;
}

extern "C" void note_signal(int signal) {
  // The time decides which signal is the first: set after that, it could be missing when another thread looks.
  int64_t first = 0;
  if (first_time.compare_exchange_strong(first, now())) {
    pending = signal;
  } else if (now() - first >= together_time) {
    ::signal(signal, SIG_DFL);
    ::raise(signal);  // taken when this handler returns
  }
}

}  // namespace

InterruptGuard::InterruptGuard(std::chrono::seconds together) {
  pending = 0;
  first_time = 0;
  together_time = std::chrono::nanoseconds(together).count();
  struct sigaction action = {};
  action.sa_handler = note_signal;
  action.sa_flags = SA_RESTART;  // reads and writes at work go on
  sigaction(SIGINT, &action, &old_int);
  sigaction(SIGTERM, &action, &old_term);
}

InterruptGuard::~InterruptGuard() {
  sigaction(SIGINT, &old_int, nullptr);
  sigaction(SIGTERM, &old_term, nullptr);
}

int pending_interrupt() { return pending; }

}  // namespace iabn::train
