#include "iabn/train/gradient_average.h"

#include <mutex>
#include <utility>

#include <ATen/ATen.h>
#include <torch/csrc/autograd/function_hook.h>
#include <torch/csrc/autograd/variable.h>
#include <torch/csrc/distributed/c10d/Work.hpp>

#include "iabn/nn/error_text.h"

namespace iabn::train {
namespace {

constexpr int64_t kBucketBytes = 25 << 20;  // as in PyTorch's DistributedDataParallel

struct Bucket {
  std::vector<size_t> members;    // of the parameters
  at::Tensor memory;              // all gradients, one behind the other
  std::vector<at::Tensor> views;  // of each member
  size_t missing = 0;             // gradients that have not come yet
  c10::intrusive_ptr<c10d::Work> work;
};

[[noreturn]] void fail(const nn::ProcessGroup& group, const std::exception& error) {
  TORCH_CHECK(false, "averaging gradients: rank ", group->getRank(), " of ", group->getSize(),
              " could not exchange data with the others; one of them has ended, whose own message tells why, or stays "
              "away. ",
              nn::text_of(error));
}

}  // namespace

struct GradientAverage::State {
  std::vector<at::Tensor> parameters;
  nn::ProcessGroup group;
  std::vector<Bucket> buckets;
  std::vector<size_t> bucket_of;
  std::mutex mutex;  // the hooks run in autograd's threads
  bool active = false;
  size_t next = 0;  // bucket to be sent: all ranks send them in the same order

  void make_buckets();
  void ready(size_t parameter);
  void send(Bucket& bucket);
};

namespace {

struct Hook final : torch::autograd::PostAccumulateGradHook {
  Hook(std::shared_ptr<GradientAverage::State> state_, size_t parameter_)
      : state(std::move(state_)), parameter(parameter_) {}
  void operator()(const torch::autograd::Variable&) override { state->ready(parameter); }
  std::shared_ptr<GradientAverage::State> state;
  size_t parameter;
};

}  // namespace

void GradientAverage::State::make_buckets() {
  bucket_of.resize(parameters.size());
  for (size_t i = parameters.size(); i-- > 0;) {
    const at::Tensor& parameter = parameters[i];
    const auto bytes = [&](const Bucket& bucket) {
      int64_t sum = 0;
      for (const size_t member : bucket.members) sum += static_cast<int64_t>(parameters[member].nbytes());
      return sum;
    };
    const bool fits = !buckets.empty() &&
                      parameters[buckets.back().members.front()].scalar_type() == parameter.scalar_type() &&
                      bytes(buckets.back()) + static_cast<int64_t>(parameter.nbytes()) <= kBucketBytes;
    if (!fits) buckets.emplace_back();
    buckets.back().members.push_back(i);
    bucket_of[i] = buckets.size() - 1;
  }
  for (Bucket& bucket : buckets) {
    int64_t numbers = 0;
    for (const size_t i : bucket.members) numbers += parameters[i].numel();
    const at::Tensor& first = parameters[bucket.members.front()];
    bucket.memory = at::zeros({numbers}, first.options().requires_grad(false));
    int64_t offset = 0;
    for (const size_t i : bucket.members) {
      // The parameter's strides, which the optimiser's fused kernels want of its gradient.
      bucket.views.push_back(bucket.memory.as_strided(parameters[i].sizes(), parameters[i].strides(), offset));
      offset += parameters[i].numel();
    }
  }
}

void GradientAverage::State::ready(size_t parameter) {
  const std::lock_guard lock(mutex);
  if (!active) return;
  --buckets[bucket_of[parameter]].missing;
  for (; next < buckets.size() && buckets[next].missing == 0; ++next) send(buckets[next]);
}

void GradientAverage::State::send(Bucket& bucket) {
  const at::NoGradGuard no_grad;
  std::vector<at::Tensor> views, gradients;
  for (size_t k = 0; k < bucket.members.size(); ++k) {
    const at::Tensor& gradient = parameters[bucket.members[k]].grad();
    if (!gradient.defined()) {
      bucket.views[k].zero_();
    } else {
      views.push_back(bucket.views[k]);
      gradients.push_back(gradient);
    }
  }
  if (!views.empty()) at::_foreach_copy_(views, gradients);
  bucket.memory.div_(group->getSize());
  std::vector<at::Tensor> memory{bucket.memory};
  try {
    bucket.work = group->allreduce(memory);
  } catch (const std::exception& error) {
    fail(group, error);
  }
}

GradientAverage::GradientAverage(const std::vector<at::Tensor>& parameters, nn::ProcessGroup group)
    : state_(std::make_shared<State>()) {
  state_->parameters = parameters;
  state_->group = std::move(group);
  state_->make_buckets();
  for (size_t i = 0; i < parameters.size(); ++i) {
    torch::autograd::impl::set_post_acc_grad_hooks(parameters[i], std::make_unique<Hook>(state_, i));
  }
}

GradientAverage::~GradientAverage() {
  for (const at::Tensor& parameter : state_->parameters) {
    torch::autograd::impl::set_post_acc_grad_hooks(parameter, nullptr);
  }
}

void GradientAverage::begin() {
  const std::lock_guard lock(state_->mutex);
  for (Bucket& bucket : state_->buckets) bucket.missing = bucket.members.size();
  state_->next = 0;
  state_->active = true;
}

void GradientAverage::finish() {
  State& state = *state_;
  {
    const std::lock_guard lock(state.mutex);
    state.active = false;
  }
  for (; state.next < state.buckets.size(); ++state.next) state.send(state.buckets[state.next]);
  for (Bucket& bucket : state.buckets) {
    try {
      std::exchange(bucket.work, nullptr)->wait();
    } catch (const std::exception& error) {
      fail(state.group, error);
    }
    for (size_t k = 0; k < bucket.members.size(); ++k) {
      state.parameters[bucket.members[k]].mutable_grad() = bucket.views[k];
    }
  }
}

void broadcast(const nn::ProcessGroup& group, const std::vector<at::Tensor>& tensors) {
  const at::NoGradGuard no_grad;
  for (const at::Tensor& tensor : tensors) {
    // Collectives want row-major memory.
    at::Tensor sent = tensor.detach().contiguous();
    std::vector<at::Tensor> list{sent};
    try {
      group->broadcast(list)->wait();
    } catch (const std::exception& error) {
      fail(group, error);
    }
    if (sent.data_ptr() != tensor.data_ptr()) tensor.detach().copy_(sent);
  }
}

}  // namespace iabn::train
