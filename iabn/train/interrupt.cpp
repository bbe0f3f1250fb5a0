#include "iabn/train/interrupt.h"

#include <csignal>

namespace iabn::train {
namespace {

volatile std::sig_atomic_t pending = 0;
struct sigaction old_int, old_term;

extern "C" void note_signal(int signal) { pending = signal; }

}  // namespace

InterruptGuard::InterruptGuard() {
  pending = 0;
  struct sigaction action = {};
  action.sa_handler = note_signal;
  // Reset: the second signal finds the default again. Restart: reads and writes at work go on.
  action.sa_flags = SA_RESETHAND | SA_RESTART;
  sigaction(SIGINT, &action, &old_int);
  sigaction(SIGTERM, &action, &old_term);
}

InterruptGuard::~InterruptGuard() {
  sigaction(SIGINT, &old_int, nullptr);
  sigaction(SIGTERM, &old_term, nullptr);
}

int pending_interrupt() { return pending; }

}  // namespace iabn::train
