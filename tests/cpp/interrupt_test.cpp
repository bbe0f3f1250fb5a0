// Signals as requests: what is noted, what counts as one, what ends the process.

#include "iabn/train/interrupt.h"

#include <barrier>
#include <csignal>
#include <cstdlib>
#include <thread>

#include <gtest/gtest.h>

namespace iabn::train {
namespace {

using std::chrono::seconds;

TEST(Interrupt, TheFirstSignalIsNoted) {
  const InterruptGuard guard;
  EXPECT_EQ(pending_interrupt(), 0);
  std::raise(SIGINT);
  EXPECT_EQ(pending_interrupt(), SIGINT);
}

TEST(Interrupt, ANewGuardHasNoSignalYet) {
  {
    const InterruptGuard guard;
    std::raise(SIGTERM);
  }
  const InterruptGuard guard;
  EXPECT_EQ(pending_interrupt(), 0);
  std::raise(SIGINT);
  EXPECT_EQ(pending_interrupt(), SIGINT);
}

// Every thread takes its own signal while the others' handlers are at work.
void signals_at_once(int rounds) {
  constexpr int kThreads = 3;
  for (int round = 0; round < rounds; ++round) {
    const InterruptGuard guard(seconds(60));
    std::barrier start(kThreads);
    const auto signal = [&](int number) {
      start.arrive_and_wait();
      std::raise(number);
    };
    std::thread second(signal, SIGTERM), third(signal, SIGINT);
    signal(SIGTERM);
    second.join();
    third.join();
    if (pending_interrupt() != SIGTERM && pending_interrupt() != SIGINT) std::_Exit(3);
  }
  std::_Exit(0);
}

TEST(InterruptDeathTest, SignalsAtOnceInSeveralThreadsAreOne) {
  EXPECT_EXIT(signals_at_once(5000), testing::ExitedWithCode(0), "");
}

void signals_in_turn(seconds together) {
  const InterruptGuard guard(together);
  std::raise(SIGTERM);
  std::raise(SIGTERM);
  std::_Exit(0);
}

TEST(InterruptDeathTest, ASecondSignalEndsTheProcessUnlessItComesTogetherWithTheFirst) {
  EXPECT_EXIT(signals_in_turn(seconds(0)), testing::KilledBySignal(SIGTERM), "");
  EXPECT_EXIT(signals_in_turn(seconds(60)), testing::ExitedWithCode(0), "");
}

}  // namespace
}  // namespace iabn::train
