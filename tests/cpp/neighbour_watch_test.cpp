// Processes that watch each other: every test starts copies of this program, which meet through Gloo, without a GPU.

#include <chrono>
#include <cstdlib>
#include <thread>

#include <gmock/gmock.h>
#include <torch/torch.h>
#include <unistd.h>

#include "iabn/train/distributed.h"
#include "iabn/train/neighbour_watch.h"
#include "tests/cpp/sync_support.h"

namespace iabn::test {
namespace {

using std::chrono::seconds;
using testing::Each;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;

constexpr seconds kTimeout{6};

void work_for(seconds time) { std::this_thread::sleep_for(time); }

int worker(const train::World& world, const std::string& what) {
  world.any(false);  // all have met: join_world may return while another rank still connects
  const auto timeout = what == "death" ? seconds(60) : kTimeout;
  const bool second = world.rank == 1;
  if (what == "silence" && second) {  // it is there, but says nothing
    work_for(3 * kTimeout);
    return 0;
  }
  train::NeighbourWatch watch(world.group->getBackend(c10::kCPU), timeout);
  if (what == "death") {
    if (second) std::_Exit(7);
    work_for(seconds(40));
    return 3;  // nobody has noticed
  }
  if (what == "silence") {
    work_for(3 * kTimeout);
    return 3;
  }
  if (what == "long work") work_for(2 * kTimeout);
  if (what == "one early" && !second) work_for(seconds(2));
  if (what == "death after work" && world.rank == 2) {
    work_for(seconds(2));
    std::_Exit(7);
  }
  if (what == "death after work" && !second) work_for(seconds(4));
  watch.leave();
  return 0;
}

Job together(const std::string& what, const std::string& ranks = "1,1,1,1") { return run("watch", ranks, what); }

TEST(NeighbourWatch, ADeathEndsAllInTheRing) {
  for (const char* ranks : {"1,1", "1,1,1,1"}) {
    const auto start = std::chrono::steady_clock::now();
    Job job = together("death", ranks);
    EXPECT_LT(std::chrono::steady_clock::now() - start, seconds(35));
    EXPECT_EQ(job.codes[1], 7) << job.output;
    job.codes.erase(job.codes.begin() + 1);
    EXPECT_THAT(job.codes, Each(1)) << job.output;
    EXPECT_THAT(job.output, HasSubstr("iabn: error: rank 0 of"));
    EXPECT_THAT(job.output, HasSubstr("could not exchange data with the others: rank 1 has ended"));
  }
}

TEST(NeighbourWatch, ASilentRankIsNoticedWithinTheTimeout) {
  const Job job = together("silence");
  EXPECT_THAT(job.codes, ElementsAre(1, 0, 1, 1)) << job.output;
  EXPECT_THAT(job.output, HasSubstr("rank 0 of 4 could not exchange data with the others: rank 1 has ended, whose own "
                                    "message tells why, or its machine cannot be reached"));
}

TEST(NeighbourWatch, WorkMayTakeLongerThanTheTimeout) {
  const Job job = together("long work");
  EXPECT_THAT(job.codes, Each(0)) << job.output;
  EXPECT_THAT(job.output, Not(HasSubstr("iabn:")));
}

TEST(NeighbourWatch, ARankMayLeaveBeforeTheOthers) {
  for (const char* ranks : {"1,1", "1,1,1,1"}) {
    const Job job = together("one early", ranks);
    EXPECT_THAT(job.codes, Each(0)) << job.output;
    EXPECT_THAT(job.output, Not(HasSubstr("iabn:")));
  }
}

TEST(NeighbourWatch, OnlyAWarningComesAfterTheWork) {
  const Job job = together("death after work");
  EXPECT_THAT(job.codes, ElementsAre(0, 0, 7, 0)) << job.output;
  EXPECT_THAT(job.output, HasSubstr("iabn: warning: rank 1 of 4 has finished, but rank 2 did not take leave"));
  EXPECT_THAT(job.output, HasSubstr("iabn: warning: rank 3 of 4 has finished, but rank 2 did not take leave"));
}

int worker_main() {
  const auto world = train::join_world(c10::kCPU, seconds(60));
  return worker(world, told("IABN_TEST_ARGUMENT"));
}

}  // namespace
}  // namespace iabn::test

int main(int argc, char** argv) {
  if (std::getenv("IABN_TEST_WORKER") != nullptr) return iabn::test::worker_main();
  testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
