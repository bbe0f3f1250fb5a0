// The worker pool; no tensors, so that it also runs under the thread sanitizer.

#include "iabn/data/worker_pool.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace iabn::data {
namespace {

TEST(WorkerPool, EveryPartOfEveryJobRunsOnce) {
  for (const int64_t threads : {0, 1, 4}) {
    WorkerPool pool(threads);
    EXPECT_EQ(pool.threads(), threads);
    std::vector<std::vector<int>> counts(50, std::vector<int>(7, 0));
    std::vector<std::shared_ptr<WorkerPool::Job>> jobs;
    for (auto& count : counts) jobs.push_back(pool.submit(7, [&count](int64_t part) { ++count[part]; }));
    for (const auto& job : jobs) pool.wait(job);
    for (const auto& count : counts) EXPECT_EQ(count, std::vector<int>(7, 1));
  }
}

TEST(WorkerPool, PartsOfOneJobRunAtTheSameTime) {
  WorkerPool pool(2);
  std::atomic<int> arrived = 0;
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(30);
  pool.wait(pool.submit(2, [&](int64_t) {
    ++arrived;
    while (arrived < 2 && std::chrono::steady_clock::now() < deadline) std::this_thread::yield();
  }));
  EXPECT_EQ(arrived, 2);
  EXPECT_LT(std::chrono::steady_clock::now(), deadline);
}

TEST(WorkerPool, WithoutThreadsPartsRunInTheWaitingThread) {
  WorkerPool pool(0);
  std::vector<std::thread::id> ids;
  const auto job = pool.submit(3, [&](int64_t) { ids.push_back(std::this_thread::get_id()); });
  EXPECT_TRUE(ids.empty());
  pool.wait(job);
  EXPECT_EQ(ids, std::vector<std::thread::id>(3, std::this_thread::get_id()));
}

TEST(WorkerPool, TheErrorOfTheLowestPartIsThrownAndOtherJobsGoOn) {
  for (const int64_t threads : {0, 1, 4}) {
    WorkerPool pool(threads);
    for (int round = 0; round < 50; ++round) {
      const auto bad = pool.submit(8, [](int64_t part) {
        if (part % 3 == 2) throw std::runtime_error("part " + std::to_string(part));
      });
      std::atomic<int> good_parts = 0;
      const auto good = pool.submit(5, [&](int64_t) { ++good_parts; });
      try {
        pool.wait(bad);
        ADD_FAILURE() << "no error";
      } catch (const std::runtime_error& e) {
        EXPECT_STREQ(e.what(), "part 2");
      }
      pool.wait(good);
      EXPECT_EQ(good_parts, 5);
    }
  }
}

TEST(WorkerPool, AfterCancelNothingRunsAndWaitSaysSo) {
  for (const int64_t threads : {0, 3}) {
    WorkerPool pool(threads);
    for (int round = 0; round < 50; ++round) {
      auto target = std::make_unique<std::atomic<int>>(0);
      std::shared_ptr<WorkerPool::Job> last;
      for (int i = 0; i < 20; ++i) {
        last = pool.submit(4, [to = target.get()](int64_t) {
          std::this_thread::sleep_for(std::chrono::microseconds(200));
          ++*to;
        });
      }
      std::this_thread::sleep_for(std::chrono::microseconds(300));
      pool.cancel();
      const int ran = *target;
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
      EXPECT_EQ(*target, ran);
      target.reset();  // a part that still ran would write to freed memory
      if (ran < 80) {
        EXPECT_THROW(pool.wait(last), std::logic_error);
      }
    }
    const auto job = pool.submit(1, [](int64_t) {});
    EXPECT_NO_THROW(pool.wait(job));
  }
}

TEST(WorkerPool, MayBeDestroyedWithWorkQueuedAndRunning) {
  for (int round = 0; round < 100; ++round) {
    std::atomic<int> ran = 0;
    WorkerPool pool(3);
    for (int i = 0; i < round % 10; ++i) pool.submit(5, [&](int64_t) { ++ran; });
  }
}

TEST(WorkerPool, AJobOfNoPartsIsDoneAtOnce) {
  for (const int64_t threads : {0, 2}) {
    WorkerPool pool(threads);
    EXPECT_NO_THROW(pool.wait(pool.submit(0, [](int64_t) { FAIL(); })));
  }
}

TEST(WorkerPool, WaitingInAnyOrderWorks) {
  WorkerPool pool(2);
  std::atomic<int> ran = 0;
  const auto first = pool.submit(3, [&](int64_t) { ++ran; });
  const auto second = pool.submit(3, [&](int64_t) { ++ran; });
  pool.wait(second);
  pool.wait(first);
  pool.wait(second);
  EXPECT_EQ(ran, 6);
}

}  // namespace
}  // namespace iabn::data
