#pragma once

// Threads that work on jobs in the order they are handed in. Knows nothing of images or tensors, so that it can be
// tested under the thread sanitizer by itself.

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace iabn::data {

/// submit(), wait() and cancel() are for one thread, the owner. Parts run on the pool's threads; with 0 threads they
/// run inside wait().
class WorkerPool {
 public:
  /// Does part `part` of [0, parts) of a job; several parts at once.
  using Work = std::function<void(int64_t part)>;
  class Job;

  explicit WorkerPool(int64_t threads);

  /// Gives up what has not begun, waits for what has.
  ~WorkerPool();
  WorkerPool(const WorkerPool&) = delete;
  WorkerPool& operator=(const WorkerPool&) = delete;

  /// Queues a job behind all others.
  std::shared_ptr<Job> submit(int64_t parts, Work work);

  /// Returns when every part has run. Throws the error of the lowest part that failed, so that the same error is seen
  /// whatever the number of threads. Throws std::logic_error for a job that was cancelled.
  void wait(const std::shared_ptr<Job>& job);

  /// Gives up every queued part; returns when no part is running.
  void cancel();

  int64_t threads() const { return static_cast<int64_t>(threads_.size()); }

 private:
  void loop();
  void stop();
  void run_part(std::unique_lock<std::mutex>& lock, const std::shared_ptr<Job>& job);

  std::mutex mutex_;
  std::condition_variable queued_;    // there is a part to run, or stopping
  std::condition_variable finished_;  // a job has finished, or no part is running any more
  std::deque<std::shared_ptr<Job>> queue_;
  int64_t running_ = 0;  // parts
  bool stopping_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace iabn::data
