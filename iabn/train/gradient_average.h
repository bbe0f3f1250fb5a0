#pragma once

// The mean of the gradients over all processes, exchanged while backward still runs.

#include <memory>
#include <vector>

#include <ATen/core/Tensor.h>

#include "iabn/nn/sync.h"

namespace iabn::train {

/// Gradients are gathered into buckets of some 25 MB in the order in which backward is expected to give them (the
/// parameters', reversed). A hook on every parameter notes its gradient; a bucket that is complete, with all before it,
/// is copied together and its all-reduce begins, beside the rest of backward. All processes must own the same
/// parameters and run the same backward passes.
class GradientAverage {
 public:
  GradientAverage(const std::vector<at::Tensor>& parameters, nn::ProcessGroup group);
  ~GradientAverage();
  GradientAverage(const GradientAverage&) = delete;
  GradientAverage& operator=(const GradientAverage&) = delete;

  /// Before the backward pass that completes the gradients (the last part of an accumulated step).
  void begin();
  /// After it: waits (a GPU's stream, not the host), and every gradient is the mean; of a parameter that got none here,
  /// too. Throws c10::Error that names the rank where another process has ended or stays away.
  void finish();

  struct State;

 private:
  std::shared_ptr<State> state_;  // shared with the hooks, which live as long as the parameters
};

/// Tensors of rank 0 to all, in place.
void broadcast(const nn::ProcessGroup& group, const std::vector<at::Tensor>& tensors);

}  // namespace iabn::train
