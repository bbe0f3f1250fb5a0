#include "iabn/train/network_cost.h"

#include <atomic>
#include <optional>
#include <tuple>
#include <utility>

#include <ATen/core/boxing/KernelFunction.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <c10/core/Allocator.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/library.h>

#include "iabn/models/network.h"
#include "iabn/models/registry.h"

// Note [Running without data]
// PyTorch's device "meta" has tensors with sizes and no data. A mode on this thread sends everything that is created to
// that device, so that building a network costs nothing, and sees every operator, so that it can count
// multiplications. Convolution, BatchNorm and our own operators have no kernels on that device in C++; the ones below
// only make outputs of the right sizes. Everything else, and above all what autograd saves, is PyTorch's own, and an
// allocator that hands out no memory counts how many bytes live.

namespace iabn::train {
namespace {

using at::Tensor;

constexpr c10::DispatchKey kMode = c10::DispatchKey::TESTING_ONLY_GenericMode;

thread_local int64_t multiply_adds = 0;

// ---- Counting bytes -----------------------------------------------------------------------------------------------

class SizeOnlyAllocator final : public c10::Allocator {
 public:
  static SizeOnlyAllocator& instance() {
    static auto* allocator = new SizeOnlyAllocator;
    return *allocator;
  }
  c10::DataPtr allocate(size_t bytes) override {
    live_ += static_cast<int64_t>(bytes);
    return {nullptr, new size_t(bytes), &release, c10::Device(c10::kMeta)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return nullptr; }
  void copy_data(void*, const void*, std::size_t) const override {}
  int64_t live() const { return live_; }

 private:
  static void release(void* context) {
    auto* bytes = static_cast<size_t*>(context);
    instance().live_ -= static_cast<int64_t>(*bytes);
    delete bytes;
  }
  std::atomic<int64_t> live_ = 0;
};

// ---- The mode -----------------------------------------------------------------------------------------------------

void without_data(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const c10::impl::ExcludeDispatchKeyGuard exclude(kMode);
  const auto& arguments = op.schema().arguments();
  const size_t first = stack->size() - arguments.size();
  for (size_t i = 0; i < arguments.size(); ++i) {
    if (arguments[i].name() == "device") (*stack)[first + i] = c10::Device(c10::kMeta);
  }
  // Per value of the output: a convolution's weight without its output channels; the inner size of the product behind a
  // linear layer.
  const std::string& name = op.schema().name();
  int64_t per_value = 0;
  if (name == "aten::conv2d") {
    const Tensor weight = (*stack)[first + 1].toTensor();
    per_value = weight.numel() / weight.size(0);
  } else if (name == "aten::addmm") {
    per_value = (*stack)[first + 1].toTensor().size(1);
  }
  op.callBoxed(stack);
  if (per_value > 0) multiply_adds += stack->back().toTensor().numel() * per_value;
}

// ---- Kernels that make outputs ------------------------------------------------------------------------------------

Tensor convolution(const Tensor& x, const Tensor& weight, const std::optional<Tensor>&, at::IntArrayRef stride,
                   at::IntArrayRef padding, at::IntArrayRef dilation, bool transposed, at::IntArrayRef, int64_t) {
  TORCH_CHECK(!transposed && x.dim() == 4, "network_cost: only 2-dimensional convolutions are counted");
  std::vector<int64_t> sizes{x.size(0), weight.size(0)};
  for (size_t i = 0; i < 2; ++i) {
    const auto dim = static_cast<int64_t>(i) + 2;
    sizes.push_back((x.size(dim) + 2 * padding[i] - dilation[i] * (weight.size(dim) - 1) - 1) / stride[i] + 1);
  }
  return at::empty(sizes, x.options());
}

Tensor per_channel(const Tensor& x) { return at::empty({x.size(1)}, x.options()); }

std::tuple<Tensor, Tensor, Tensor> native_batch_norm(const Tensor& x, const std::optional<Tensor>&,
                                                     const std::optional<Tensor>&, const std::optional<Tensor>&,
                                                     const std::optional<Tensor>&, bool, double, double) {
  return {at::empty_like(x), per_channel(x), per_channel(x)};
}

std::tuple<Tensor, Tensor> abn_forward_(const Tensor& x, const std::optional<Tensor>&, const std::optional<Tensor>&,
                                        const std::optional<Tensor>&, const std::optional<Tensor>&,
                                        const std::optional<Tensor>&, std::optional<double>, double, int64_t, double,
                                        int64_t) {
  return {per_channel(x), per_channel(x)};
}

TORCH_LIBRARY_IMPL(_, TESTING_ONLY_GenericMode, m) {
  m.fallback(torch::CppFunction::makeFromBoxedFunction<&without_data>());
}
TORCH_LIBRARY_IMPL(aten, Meta, m) {
  m.impl("convolution", convolution);
  m.impl("native_batch_norm", native_batch_norm);
}
TORCH_LIBRARY_IMPL(iabn, Meta, m) { m.impl("abn_forward_", abn_forward_); }

}  // namespace

NetworkCost network_cost(const std::function<Runnable()>& build, const std::vector<int64_t>& sizes) {
  static const bool installed = [] {
    c10::SetAllocator(c10::kMeta, &SizeOnlyAllocator::instance(), /*priority=*/1);
    return true;
  }();
  TORCH_CHECK(installed);
  const SizeOnlyAllocator& allocator = SizeOnlyAllocator::instance();
  const c10::impl::IncludeDispatchKeyGuard mode(kMode);
  const Runnable network = build();
  NetworkCost cost;
  for (const Tensor& parameter : network.module->parameters()) cost.parameters += parameter.numel();
  const Tensor x = at::empty(sizes, at::kFloat);
  multiply_adds = 0;
  const int64_t before = allocator.live();
  const Tensor output = network.forward(x);
  cost.held = allocator.live() - before;
  cost.multiply_adds = multiply_adds;
  return cost;
}

NetworkCost network_cost(const std::string& name, const models::NetworkOptions& options,
                         const std::vector<int64_t>& sizes) {
  const auto build = [&]() -> Runnable {
    auto network = models::make_network(name, options);
    return {network, [network](Tensor x) { return network->forward(std::move(x)); }};
  };
  return network_cost(build, sizes);
}

}  // namespace iabn::train
