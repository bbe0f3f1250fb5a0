#pragma once

// In-Place Activated BatchNorm with the statistics of all processes of a c10d process group.

#include <memory>
#include <set>
#include <string>

#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>

#include "iabn/nn/abn.h"

namespace iabn::nn {

/// Null: no synchronisation.
using ProcessGroup = c10::intrusive_ptr<c10d::ProcessGroup>;

/// The group of every layer that has none of its own; null at first. To be set before the first forward pass.
void set_process_group(ProcessGroup group);
const ProcessGroup& process_group();

/// inplace_abn with the statistics of all processes of `group`: one all-gather of {count, mean, M2} per channel in
/// forward, one all-reduce of four sums per channel in backward; the host waits for neither on a GPU. A process's batch
/// may be empty, and batches may be of different sizes. Gradients of weight and bias are those of the process's own
/// samples (data-parallel training averages them); d_x is that of the whole batch. Running statistics are those of the
/// whole batch and stay as they are where it has fewer than two values per channel.
///
/// All processes must call it in the same order with the same channels and dtype, and all must run backward through it.
/// Where options.training is false, without a group, or in a group of one: inplace_abn. `name`: of the layer, for
/// messages. Throws c10::Error that names it and the rank where a collective fails: another process has ended or does
/// not come within the group's timeout.
at::Tensor inplace_abn_sync(at::Tensor x, const at::Tensor& weight, const at::Tensor& bias,
                            const at::Tensor& running_mean, const at::Tensor& running_var,
                            const at::Tensor& num_batches_tracked, const InPlaceABNFuncOptions& options,
                            const ProcessGroup& group, const std::string& name = "inplace_abn_sync");

/// The synchronised path whatever the size of the group, in training; `group` must not be null.
at::Tensor inplace_abn_over_group(at::Tensor x, const at::Tensor& weight, const at::Tensor& bias,
                                  const at::Tensor& running_mean, const at::Tensor& running_var,
                                  const at::Tensor& num_batches_tracked, const InPlaceABNFuncOptions& options,
                                  const ProcessGroup& group, const std::string& name = "inplace_abn_sync");

/// Throws c10::Error, naming rank and both layers, where the processes of `group` have not come to the same layer (same
/// `facts`) as their next check. Through the group's store: waits for all, at most the store's timeout. Collective.
void check_same_layer(const ProcessGroup& group, const std::string& facts);

/// In-Place ABN over the processes of its group, by default process_group(), in training. Checks at its first pass in a
/// group, and where channels, dtype or options are new, that all processes have come to the same layer.
class InPlaceABNSyncImpl : public NormActImpl {
 public:
  explicit InPlaceABNSyncImpl(ABNOptions options);
  torch::Tensor forward(torch::Tensor x) override;

  /// null: process_group().
  void set_group(ProcessGroup group) { group_ = std::move(group); }
  /// For messages; name_sync_layers sets it.
  std::string name = "InPlaceABNSync";

 protected:
  std::shared_ptr<NormActImpl> make(const ABNOptions& options) const override;
  const char* class_name() const override { return "iabn::nn::InPlaceABNSync"; }

 private:
  void check_others(const ProcessGroup& group, const torch::Tensor& x);

  ProcessGroup group_;
  ProcessGroup checked_group_;
  std::set<std::string> checked_;  // what checks in that group were about
};
TORCH_MODULE(InPlaceABNSync);

/// Gives every InPlaceABNSync in `module` its path ("mod2.block1.bn1") as its name.
void name_sync_layers(torch::nn::Module& module);

}  // namespace iabn::nn
