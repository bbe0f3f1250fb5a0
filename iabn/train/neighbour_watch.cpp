#include "iabn/train/neighbour_watch.h"

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <utility>
#include <vector>

#include <ATen/ATen.h>

namespace iabn::train {
namespace {

constexpr auto kForever = std::chrono::hours(24 * 365);

}  // namespace

struct NeighbourWatch::State {
  explicit State(c10::intrusive_ptr<c10d::Backend> gloo_) : gloo(std::move(gloo_)) {}
  int rank() const { return gloo->getRank(); }
  int next() const { return (rank() + 1) % gloo->getSize(); }
  int previous() const { return (rank() + gloo->getSize() - 1) % gloo->getSize(); }
  void watch();

  c10::intrusive_ptr<c10d::Backend> gloo;
  std::thread thread;
  std::atomic<bool> watching = true;
};

void NeighbourWatch::State::watch() {
  std::vector<at::Tensor> word{at::zeros({1}, at::kInt)};
  try {
    gloo->recv(word, next(), 0)->wait(kForever);
  } catch (const std::exception&) {
    if (!watching) return;
    std::fflush(stdout);
    std::fprintf(stderr,
                 "iabn: error: rank %d of %d could not exchange data with the others: rank %d has ended, whose own "
                 "message tells why, or its machine cannot be reached\n",
                 rank(), gloo->getSize(), next());
    std::fflush(stderr);
    std::_Exit(1);
  }
}

NeighbourWatch::NeighbourWatch(c10::intrusive_ptr<c10d::Backend> gloo)
    : state_(std::make_shared<State>(std::move(gloo))) {
  state_->thread = std::thread([state = state_] { state->watch(); });
}

NeighbourWatch::~NeighbourWatch() {
  state_->watching = false;
  if (state_->thread.joinable()) state_->thread.detach();
}

void NeighbourWatch::leave() {
  std::vector<at::Tensor> word{at::ones({1}, at::kInt)};
  state_->gloo->send(word, state_->previous(), 0)->wait();
  state_->thread.join();
}

}  // namespace iabn::train
