#include "iabn/nn/sync.h"

#include <map>
#include <utility>
#include <vector>

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/empty.h>
#include <torch/csrc/autograd/custom_function.h>

#include "iabn/nn/ops.h"
#include "iabn/nn/overwrite.h"

namespace iabn::nn {
namespace {

using at::Tensor;
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
    const auto* torch_error = dynamic_cast<const c10::Error*>(&error);
    TORCH_CHECK(false, what, ": rank ", group->getRank(), " of the group of ", group->getSize(),
                " could not exchange data with the others. One of them has ended, whose own message tells why, or has "
                "not come to this layer within the group's timeout. ",
                torch_error != nullptr ? torch_error->what_without_backtrace() : error.what());
  }
}

/// What the node needs besides tensors.
struct Call {
  double eps;
  int64_t activation;
  double activation_param;
  int64_t gamma;
  ProcessGroup group;
  std::string name;
};

struct CallHolder : torch::CustomClassHolder {
  explicit CallHolder(Call call_) : call(std::move(call_)) {}
  Call call;
};

/// Backward keeps z, var, weight, bias and the count.
class InPlaceABNSyncFunction : public torch::autograd::Function<InPlaceABNSyncFunction> {
 public:
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const std::optional<Tensor>& weight,
                        const std::optional<Tensor>& bias, const std::vector<Tensor>& statistics, const Call& call) {
    at::AutoDispatchBelowADInplaceOrView guard;
    const Tensor &mean = statistics[0], &var = statistics[1], &count = statistics[2];
    ops::abn_apply_(x, mean, var, weight, bias, call.eps, call.activation, call.activation_param, call.gamma);
    ctx->mark_dirty({x});
    ctx->save_for_backward({saved_output(x), var, weight.value_or(Tensor()), bias.value_or(Tensor()), count});
    ctx->saved_data["call"] = c10::IValue::make_capsule(c10::make_intrusive<CallHolder>(call));
    return x;
  }

  static variable_list backward(AutogradContext* ctx, variable_list d_outputs) {
    TORCH_CHECK(!at::GradMode::is_enabled(), kNoDoubleBackward);
    const variable_list saved = ctx->get_saved_variables();
    const Tensor &z = saved[0], &var = saved[1], &weight = saved[2], &bias = saved[3], &count = saved[4];
    const auto holder = c10::static_intrusive_pointer_cast<CallHolder>(ctx->saved_data["call"].toCapsule());
    const Call& call = holder->call;
    // Edges are numbered over the defined inputs only.
    const bool needs_d_weight = weight.defined() && ctx->needs_input_grad(1);
    const bool needs_d_bias = bias.defined() && ctx->needs_input_grad(weight.defined() ? 2 : 1);
    at::AutoDispatchBelowADInplaceOrView guard;
    const Tensor local =
        ops::abn_backward_reduce(z, d_outputs[0], optional(bias), call.activation, call.activation_param);
    std::vector<Tensor> sums{local.clone()};
    exchange(call.group, call.name + ", backward", [&] { return call.group->allreduce(sums); });
    variable_list gradients(5);  // one for each argument of forward
    if (ctx->needs_input_grad(0)) {
      gradients[0] = ops::abn_backward_apply(z, d_outputs[0], sums[0], count, var, optional(weight), optional(bias),
                                             call.eps, call.activation, call.activation_param, call.gamma);
    }
    if (needs_d_weight || needs_d_bias) {
      auto [d_weight, d_bias] =
          ops::abn_backward_parameters(local, sums[0], count, optional(weight), call.eps, call.gamma);
      if (needs_d_weight) gradients[1] = d_weight.to(weight.scalar_type());
      if (needs_d_bias) gradients[2] = d_bias.to(bias.scalar_type());
    }
    return gradients;
  }
};

}  // namespace

void set_process_group(ProcessGroup group) { default_group() = std::move(group); }

const ProcessGroup& process_group() { return default_group(); }

Tensor inplace_abn_over_group(Tensor x, const Tensor& weight, const Tensor& bias, const Tensor& running_mean,
                              const Tensor& running_var, const Tensor& num_batches_tracked,
                              const InPlaceABNFuncOptions& options, const ProcessGroup& group,
                              const std::string& name) {
  TORCH_CHECK(x.defined(), name, ": x is undefined: pass a tensor of shape [N, C, ...]");
  TORCH_CHECK(options.training, name, ": only training has statistics to synchronise");
  check_overwrite(x, wants_gradients(x, weight, bias));
  std::vector<Tensor> statistics(3);
  {
    const at::NoGradGuard no_grad;
    const Tensor packed = ops::abn_statistics(x.detach());
    Tensor gathered = at::empty({3 * group->getSize(), packed.size(1)}, packed.options());
    Tensor input = packed;
    exchange(group, name + ", forward", [&] { return group->_allgather_base(gathered, input); });
    std::tie(statistics[0], statistics[1], statistics[2]) = ops::abn_merge(
        gathered, optional(running_mean), optional(running_var), optional(num_batches_tracked), options.momentum);
  }
  const Call call{options.eps,
                  static_cast<int64_t>(options.activation.kind),
                  options.activation.param,
                  static_cast<int64_t>(options.gamma),
                  group,
                  name};
  return InPlaceABNSyncFunction::apply(x, optional(weight), optional(bias), statistics, call);
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
  static std::map<const c10d::ProcessGroup*, int64_t> checks;  // of each group so far
  const int64_t number = checks[group.get()]++;
  const int rank = group->getRank(), size = group->getSize();
  const auto store = group->getStore();
  TORCH_CHECK(store, facts, ": the process group has no store; make it with one");
  const auto key = [&](int of) { return "iabn/layer/" + std::to_string(number) + "/" + std::to_string(of); };
  store->set(key(rank), std::vector<uint8_t>(facts.begin(), facts.end()));
  for (int other = 0; other < size; ++other) {
    std::vector<uint8_t> answer;
    try {
      answer = store->get(key(other));
    } catch (const std::exception& error) {
      TORCH_CHECK(false, facts, ": rank ", rank, " of the group waited in vain for rank ", other,
                  ", which has ended or has not come to this layer: ", error.what());
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
  const bool training = uses_batch_statistics();
  if (training && group && group->getSize() > 1) {
    const std::string facts =
        name + " (" + std::to_string(options.num_features()) + " channels, " + c10::toString(x.scalar_type()) + ")";
    if (facts != checked_) {
      check_same_layer(group, facts);
      checked_ = facts;
    }
  }
  const InPlaceABNFuncOptions function{training, options.momentum(), options.eps(),
                                       parse_activation(options.activation(), options.activation_param()),
                                       options.gamma()};
  return inplace_abn_sync(std::move(x), weight, bias, running_mean, running_var, num_batches_tracked, function, group,
                          name);
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
