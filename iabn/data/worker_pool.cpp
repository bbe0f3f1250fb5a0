#include "iabn/data/worker_pool.h"

#include <stdexcept>
#include <utility>

namespace iabn::data {

// All members but `work` are guarded by the pool's mutex.
class WorkerPool::Job {
 public:
  Job(int64_t parts, Work work) : parts(parts), work(std::move(work)) {}

  const int64_t parts;
  const Work work;
  int64_t begun = 0;
  int64_t done = 0;
  bool cancelled = false;
  int64_t failed_part = 0;
  std::exception_ptr error;
};

WorkerPool::WorkerPool(int64_t threads) {
  try {
    for (int64_t i = 0; i < threads; ++i) threads_.emplace_back([this] { loop(); });
  } catch (...) {
    stop();  // the system refused a thread: those that run must not outlive this object
    throw;
  }
}

WorkerPool::~WorkerPool() { stop(); }

void WorkerPool::stop() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    queue_.clear();
  }
  queued_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

std::shared_ptr<WorkerPool::Job> WorkerPool::submit(int64_t parts, Work work) {
  auto job = std::make_shared<Job>(parts, std::move(work));
  if (parts > 0) {
    const std::lock_guard lock(mutex_);
    queue_.push_back(job);
  }
  queued_.notify_all();
  return job;
}

void WorkerPool::run_part(std::unique_lock<std::mutex>& lock, const std::shared_ptr<Job>& job) {
  const int64_t part = job->begun++;
  if (job->begun == job->parts) std::erase(queue_, job);
  ++running_;
  lock.unlock();
  std::exception_ptr error;
  try {
    job->work(part);
  } catch (...) {
    error = std::current_exception();
  }
  lock.lock();
  --running_;
  ++job->done;
  if (error && (!job->error || part < job->failed_part)) {
    job->error = std::move(error);
    job->failed_part = part;
  }
  if (job->done == job->parts || running_ == 0) finished_.notify_all();
}

void WorkerPool::loop() {
  std::unique_lock lock(mutex_);
  while (true) {
    queued_.wait(lock, [this] { return stopping_ || !queue_.empty(); });
    if (stopping_) return;
    const std::shared_ptr<Job> job = queue_.front();
    run_part(lock, job);
  }
}

void WorkerPool::wait(const std::shared_ptr<Job>& job) {
  std::unique_lock lock(mutex_);
  if (threads_.empty()) {
    while (!job->cancelled && job->begun < job->parts) run_part(lock, job);
  }
  finished_.wait(lock, [&] { return job->cancelled || job->done == job->parts; });
  if (job->cancelled) throw std::logic_error("worker_pool: wait: the job was cancelled");
  if (job->error) std::rethrow_exception(job->error);
}

void WorkerPool::cancel() {
  std::unique_lock lock(mutex_);
  for (const std::shared_ptr<Job>& job : queue_) job->cancelled = true;
  queue_.clear();
  finished_.wait(lock, [this] { return running_ == 0; });
}

}  // namespace iabn::data
