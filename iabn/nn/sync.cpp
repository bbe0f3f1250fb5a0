#include "iabn/nn/sync.h"

#include <mutex>
#include <sstream>
#include <utility>
#include <vector>

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/empty.h>
#include <torch/csrc/autograd/custom_function.h>

#include "iabn/nn/error_text.h"
#include "iabn/nn/ops.h"
#include "iabn/nn/overwrite.h"
#include "iabn/nn/peers.h"

namespace iabn::nn {
namespace {

using at::Tensor;
using ops::OptionalTensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

ProcessGroup& default_group() {
  static ProcessGroup group;
  return group;
}

/// Runs a collective; where it fails, says who was doing what.
template <class Collective>
void exchange(const ProcessGroup& group, const std::string& what, Collective&& collective) {
  try {
    collective()->wait();
  } catch (const std::exception& error) {
    TORCH_CHECK(false, what, ": rank ", group->getRank(), " of the group of ", group->getSize(),
                " could not exchange data with the others. One of them has ended, whose own message tells why, or has "
                "not come to this layer within the group's timeout. ",
                text_of(error));
  }
}

/// Before anything is sent or written: a process that fails later leaves the others waiting.
void check_arguments(const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& running_mean,
                     const Tensor& running_var, const InPlaceABNFuncOptions& options, const std::string& name) {
  TORCH_CHECK(x.defined() && x.dim() >= 2, name, ": x must have shape [N, C, ...] with at least 2 dimensions, got ",
              x.defined() ? c10::str(x.sizes()) : "nothing");
  const ActivationSpec& activation = options.activation;
  const bool has_slope = activation.kind == Activation::kLeakyReLU || activation.kind == Activation::kELU;
  TORCH_CHECK(activation.kind != Activation::kReLU && (!has_slope || activation.param > 0), name,
              ": training needs an activation that can be inverted, got ", activation_name(activation.kind), " with ",
              activation.param, ": use leaky_relu with a slope above 0, elu with an alpha above 0, identity, or ABN");
  TORCH_CHECK(options.eps >= 0, name, ": eps must not be negative, got ", options.eps);
  for (const auto& [what, tensor] :
       {std::pair{"weight", &weight}, std::pair{"bias", &bias}, std::pair{"running_mean", &running_mean},
        std::pair{"running_var", &running_var}}) {
    TORCH_CHECK(!tensor->defined() || (tensor->dim() == 1 && tensor->size(0) == x.size(1)), name, ": ", what,
                " must have shape [", x.size(1), "] (channels of x), got ", tensor->sizes());
  }
}

/// What the node needs besides tensors.
struct Call {
  double eps;
  int64_t activation;
  double activation_param;
  int64_t gamma;
  ProcessGroup group;
  const std::vector<int64_t>* peers;  // null: through the group's collectives
  std::string name;
};

struct CallHolder : torch::CustomClassHolder {
  explicit CallHolder(Call call_) : call(std::move(call_)) {}
  Call call;
};

struct Statistics {
  Tensor var, count;
};

/// z over x, and the statistics that backward needs, through the group's collectives.
Statistics forward_by_collectives(const Tensor& x, const OptionalTensor& weight, const OptionalTensor& bias,
                                  const std::vector<Tensor>& running, std::optional<double> momentum,
                                  const Call& call) {
  const Tensor packed = ops::abn_statistics(x.detach());
  Tensor gathered = at::empty({3 * call.group->getSize(), packed.size(1)}, packed.options());
  Tensor input = packed;
  exchange(call.group, call.name + ", forward", [&] { return call.group->_allgather_base(gathered, input); });
  const auto [mean, var, count] =
      ops::abn_merge(gathered, optional(running[0]), optional(running[1]), optional(running[2]), momentum);
  ops::abn_apply_(x, mean, var, weight, bias, call.eps, call.activation, call.activation_param, call.gamma);
  return {var, count};
}

struct Gradients {
  Tensor d_x, d_weight, d_bias;
};

Gradients backward_by_collectives(const Tensor& z, const Tensor& d_z, const Statistics& statistics,
                                  const OptionalTensor& weight, const OptionalTensor& bias, bool needs_d_x,
                                  bool needs_d_parameters, const Call& call) {
  const Tensor local = ops::abn_backward_reduce(z, d_z, bias, call.activation, call.activation_param);
  std::vector<Tensor> sums{local.clone()};
  exchange(call.group, call.name + ", backward", [&] { return call.group->allreduce(sums); });
  Gradients result;
  if (needs_d_x) {
    result.d_x = ops::abn_backward_apply(z, d_z, sums[0], statistics.count, statistics.var, weight, bias, call.eps,
                                         call.activation, call.activation_param, call.gamma);
  }
  if (needs_d_parameters) {
    std::tie(result.d_weight, result.d_bias) =
        ops::abn_backward_parameters(local, sums[0], statistics.count, weight, call.eps, call.gamma);
  }
  return result;
}

/// Backward keeps z, var, weight, bias and the count.
class InPlaceABNSyncFunction : public torch::autograd::Function<InPlaceABNSyncFunction> {
 public:
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const std::optional<Tensor>& weight,
                        const std::optional<Tensor>& bias, const std::vector<Tensor>& running,
                        std::optional<double> momentum, const Call& call) {
    at::AutoDispatchBelowADInplaceOrView guard;
    Statistics statistics;
    if (call.peers) {
      std::tie(std::ignore, statistics.var, statistics.count) =
          ops::abn_peer_forward_(x, weight, bias, optional(running[0]), optional(running[1]), optional(running[2]),
                                 momentum, call.eps, call.activation, call.activation_param, call.gamma, *call.peers);
    } else {
      statistics = forward_by_collectives(x, weight, bias, running, momentum, call);
    }
    ctx->mark_dirty({x});
    ctx->save_for_backward(
        {saved_output(x), statistics.var, weight.value_or(Tensor()), bias.value_or(Tensor()), statistics.count});
    ctx->saved_data["call"] = c10::IValue::make_capsule(c10::make_intrusive<CallHolder>(call));
    return x;
  }

  static variable_list backward(AutogradContext* ctx, variable_list d_outputs) {
    TORCH_CHECK(!at::GradMode::is_enabled(), kNoDoubleBackward);
    const variable_list saved = ctx->get_saved_variables();
    const Tensor &z = saved[0], &weight = saved[2], &bias = saved[3];
    const Statistics statistics{saved[1], saved[4]};
    const auto holder = c10::static_intrusive_pointer_cast<CallHolder>(ctx->saved_data["call"].toCapsule());
    const Call& call = holder->call;
    // Edges are numbered over the defined inputs only.
    const bool needs_d_x = ctx->needs_input_grad(0);
    const bool needs_d_weight = weight.defined() && ctx->needs_input_grad(1);
    const bool needs_d_bias = bias.defined() && ctx->needs_input_grad(weight.defined() ? 2 : 1);
    const bool needs_d_parameters = needs_d_weight || needs_d_bias;
    at::AutoDispatchBelowADInplaceOrView guard;
    Gradients result;
    if (call.peers) {
      std::tie(result.d_x, result.d_weight, result.d_bias) = ops::abn_peer_backward(
          z, d_outputs[0], statistics.count, statistics.var, optional(weight), optional(bias), call.eps,
          call.activation, call.activation_param, call.gamma, needs_d_x, needs_d_parameters, *call.peers);
    } else {
      result = backward_by_collectives(z, d_outputs[0], statistics, optional(weight), optional(bias), needs_d_x,
                                       needs_d_parameters, call);
    }
    variable_list gradients(6);  // one for each argument of forward
    if (needs_d_x) gradients[0] = result.d_x;
    if (needs_d_weight) gradients[1] = result.d_weight.to(weight.scalar_type());
    if (needs_d_bias) gradients[2] = result.d_bias.to(bias.scalar_type());
    return gradients;
  }
};

/// The number of this check among those of the group, the same on every rank.
int64_t next_check(const ProcessGroup& group) {
  static std::mutex mutex;
  static std::vector<std::pair<c10::weak_intrusive_ptr<c10d::ProcessGroup>, int64_t>> counts;
  const std::lock_guard lock(mutex);
  std::erase_if(counts, [](const auto& item) { return item.first.expired(); });
  for (auto& [known, count] : counts) {
    if (known.lock() == group) return count++;
  }
  counts.emplace_back(c10::weak_intrusive_ptr<c10d::ProcessGroup>(group), 1);
  return 0;
}

}  // namespace

void set_process_group(ProcessGroup group) { default_group() = std::move(group); }

const ProcessGroup& process_group() { return default_group(); }

Tensor inplace_abn_over_group(Tensor x, const Tensor& weight, const Tensor& bias, const Tensor& running_mean,
                              const Tensor& running_var, const Tensor& num_batches_tracked,
                              const InPlaceABNFuncOptions& options, const ProcessGroup& group,
                              const std::string& name) {
  TORCH_CHECK(options.training && group, name, ": needs training and a process group");
  check_arguments(x, weight, bias, running_mean, running_var, options, name);
  check_overwrite(x, wants_gradients(x, weight, bias));
  const Call call{options.eps,
                  static_cast<int64_t>(options.activation.kind),
                  options.activation.param,
                  static_cast<int64_t>(options.gamma),
                  group,
                  peers_of(group, x),
                  name};
  return InPlaceABNSyncFunction::apply(x, optional(weight), optional(bias),
                                       std::vector<Tensor>{running_mean, running_var, num_batches_tracked},
                                       options.momentum, call);
}

Tensor inplace_abn_sync(Tensor x, const Tensor& weight, const Tensor& bias, const Tensor& running_mean,
                        const Tensor& running_var, const Tensor& num_batches_tracked,
                        const InPlaceABNFuncOptions& options, const ProcessGroup& group, const std::string& name) {
  if (!options.training || !group || group->getSize() == 1) {
    return inplace_abn(std::move(x), weight, bias, running_mean, running_var, num_batches_tracked, options);
  }
  return inplace_abn_over_group(std::move(x), weight, bias, running_mean, running_var, num_batches_tracked, options,
                                group, name);
}

void check_same_layer(const ProcessGroup& group, const std::string& facts) {
  const int64_t number = next_check(group);
  const int rank = group->getRank(), size = group->getSize();
  const auto store = group->getStore();
  TORCH_CHECK(store, facts, ": the process group has no store; make it with one");
  const auto key = [&](int of) {
    return "iabn/layer/" + group->getGroupName() + "/" + std::to_string(number) + "/" + std::to_string(of);
  };
  store->set(key(rank), std::vector<uint8_t>(facts.begin(), facts.end()));
  for (int other = 0; other < size; ++other) {
    std::vector<uint8_t> answer;
    try {
      answer = store->get(key(other));
    } catch (const std::exception& error) {
      TORCH_CHECK(false, facts, ": rank ", rank, " of the group waited in vain for rank ", other,
                  ", which has ended or has not come to this layer: ", text_of(error));
    }
    const std::string theirs(answer.begin(), answer.end());
    TORCH_CHECK(theirs == facts, "rank ", rank, " of the group has come to ", facts, ", rank ", other, " to ", theirs,
                ": every process must call the same layers in the same order");
  }
}

InPlaceABNSyncImpl::InPlaceABNSyncImpl(ABNOptions options_) : NormActImpl(std::move(options_)) {}

Tensor InPlaceABNSyncImpl::forward(Tensor x) {
  const ProcessGroup& group = group_ ? group_ : process_group();
  keep_counter_integer();
  const bool synchronised = is_training() && group && group->getSize() > 1;
  if (synchronised) check_others(group, x);
  const InPlaceABNFuncOptions function{uses_batch_statistics(), options.momentum(), options.eps(),
                                       parse_activation(options.activation(), options.activation_param()),
                                       options.gamma()};
  // Without running statistics evaluation uses the batch's, of this process: nobody else may be evaluating.
  return inplace_abn_sync(std::move(x), weight, bias, running_mean, running_var, num_batches_tracked, function,
                          synchronised ? group : ProcessGroup(), name);
}

void InPlaceABNSyncImpl::check_others(const ProcessGroup& group, const Tensor& x) {
  if (checked_group_ != group) {
    checked_group_ = group;
    checked_.clear();
  }
  std::ostringstream facts;
  facts << name << " (" << (x.dim() >= 2 ? x.size(1) : 0) << " channels, " << x.scalar_type() << ", "
        << (wants_gradients(x, weight, bias) ? "with" : "without") << " gradients";
  for (const double number : {options.eps(), options.momentum().value_or(-1), options.activation_param()}) {
    facts << ", " << number;
  }
  facts << ", " << options.activation() << ", gamma " << static_cast<int64_t>(options.gamma()) << ")";
  if (checked_.insert(facts.str()).second) check_same_layer(group, facts.str());
}

std::shared_ptr<NormActImpl> InPlaceABNSyncImpl::make(const ABNOptions& options_) const {
  auto layer = std::make_shared<InPlaceABNSyncImpl>(options_);
  layer->set_group(group_);
  layer->name = name;
  return layer;
}

void name_sync_layers(torch::nn::Module& module) {
  for (const auto& item : module.named_modules("", /*include_self=*/true)) {
    if (auto* layer = dynamic_cast<InPlaceABNSyncImpl*>(item.value().get())) layer->name = item.key();
  }
}

}  // namespace iabn::nn
