#include "iabn/train/neighbour_watch.h"

#include <algorithm>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include <ATen/ATen.h>
#include <unistd.h>

namespace iabn::train {
namespace {

// What the words say.
constexpr int kAlive = 0;
constexpr int kLeaving = 1;

// Often enough for routers, which forget connections that are silent for some minutes.
constexpr std::chrono::milliseconds kInterval = std::chrono::seconds(10);

constexpr std::chrono::milliseconds kForever = std::chrono::hours(24 * 365);

}  // namespace

struct NeighbourWatch::State {
  explicit State(c10::intrusive_ptr<c10d::Backend> gloo_) : gloo(std::move(gloo_)) {}
  int rank() const { return gloo->getRank(); }
  int next() const { return (rank() + 1) % gloo->getSize(); }
  int previous() const { return (rank() + gloo->getSize() - 1) % gloo->getSize(); }
  void send(int word, std::chrono::milliseconds timeout);
  int receive(std::chrono::milliseconds timeout);
  void tell(std::chrono::milliseconds interval);
  void watch(std::chrono::milliseconds timeout);
  [[noreturn]] void end_process() const;

  c10::intrusive_ptr<c10d::Backend> gloo;
  std::mutex starting;  // of sends and receives: Gloo's counters are not for several threads
  std::thread teller, watcher;

  std::mutex mutex;
  std::condition_variable changed;
  bool leaving = false;   // a silent neighbour is no reason any more to end
  bool told = false;      // no more words will be sent by the teller
  bool watched = false;   // the watcher has ended
  bool good_bye = false;  // and heard kLeaving
};

void NeighbourWatch::State::send(int word, std::chrono::milliseconds timeout) {
  std::vector<at::Tensor> words{at::full({1}, word, at::kInt)};
  std::unique_lock lock(starting);
  const auto work = gloo->send(words, previous(), 0);
  lock.unlock();
  work->wait(timeout);
}

int NeighbourWatch::State::receive(std::chrono::milliseconds timeout) {
  std::vector<at::Tensor> words{at::zeros({1}, at::kInt)};
  std::unique_lock lock(starting);
  const auto work = gloo->recv(words, next(), 0);
  lock.unlock();
  work->wait(timeout);
  return words.front().item<int>();
}

// Tells the previous rank that this one lives. Without a limit: where a send's time is over, Gloo gives up all
// connections, and the watcher would blame the wrong rank.
void NeighbourWatch::State::tell(std::chrono::milliseconds interval) {
  std::unique_lock lock(mutex);
  while (!changed.wait_for(lock, interval, [&] { return leaving; })) {
    lock.unlock();
    try {
      send(kAlive, kForever);
    } catch (const std::exception&) {  // the previous rank is gone, orderly or not: its own watcher knows
      lock.lock();
      break;
    }
    lock.lock();
  }
  told = true;
  changed.notify_all();
}

void NeighbourWatch::State::watch(std::chrono::milliseconds timeout) {
  bool heard = true;
  try {
    while (receive(timeout) != kLeaving) {
    }
  } catch (const std::exception&) {
    heard = false;
  }
  const std::lock_guard lock(mutex);
  if (!heard && !leaving) end_process();
  good_bye = heard;
  watched = true;
  changed.notify_all();
}

// Without stdio, whose locks others may hold for ever.
void NeighbourWatch::State::end_process() const {
  char text[256];
  const int size =
      std::snprintf(text, sizeof text,
                    "iabn: error: rank %d of %d could not exchange data with the others: rank %d has ended, whose own "
                    "message tells why, or its machine cannot be reached\n",
                    rank(), gloo->getSize(), next());
  [[maybe_unused]] const ssize_t written = ::write(STDERR_FILENO, text, static_cast<size_t>(size));
  std::_Exit(1);
}

NeighbourWatch::NeighbourWatch(c10::intrusive_ptr<c10d::Backend> gloo, std::chrono::milliseconds timeout)
    : state_(std::make_shared<State>(std::move(gloo))), timeout_(timeout) {
  state_->teller =
      std::thread([state = state_, interval = std::min(kInterval, timeout / 3)] { state->tell(interval); });
  state_->watcher = std::thread([state = state_, timeout] { state->watch(timeout); });
}

NeighbourWatch::~NeighbourWatch() {
  {
    const std::lock_guard lock(state_->mutex);
    state_->leaving = true;
  }
  state_->changed.notify_all();
  if (state_->teller.joinable()) state_->teller.detach();
  if (state_->watcher.joinable()) state_->watcher.detach();
}

void NeighbourWatch::leave() {
  const auto deadline = std::chrono::steady_clock::now() + timeout_;
  std::unique_lock lock(state_->mutex);
  state_->leaving = true;
  state_->changed.notify_all();
  bool said = state_->changed.wait_until(lock, deadline, [&] { return state_->told; });
  lock.unlock();
  try {
    if (said) state_->send(kLeaving, timeout_);
  } catch (const std::exception&) {
    said = false;
  }
  lock.lock();
  state_->changed.wait_until(lock, deadline, [&] { return state_->watched; });
  if (said && state_->good_bye) return;
  std::fprintf(stderr,
               "iabn: warning: rank %d of %d has finished, but rank %d did not take leave: see its own messages\n",
               state_->rank(), state_->gloo->getSize(), said ? state_->next() : state_->previous());
}

}  // namespace iabn::train
