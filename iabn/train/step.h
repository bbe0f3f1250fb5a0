#pragma once

// One training step: forward, loss, backward, update; eager or as one CUDA graph.

#include <cstdint>
#include <memory>
#include <optional>

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include "iabn/train/averaged_weights.h"
#include "iabn/train/config.h"
#include "iabn/train/cuda_graph.h"
#include "iabn/train/distributed.h"
#include "iabn/train/gradient_average.h"
#include "iabn/train/metrics.h"
#include "iabn/train/optimizer.h"
#include "iabn/train/precision.h"
#include "iabn/train/task.h"

namespace iabn::models {
class Network;
}

namespace iabn::train {

/// Everything that a step changes is a member or was given to the constructor, and stays at its address. All
/// references must outlive the object.
class TrainStep {
 public:
  /// world: the job; gradients are averaged over its processes.
  TrainStep(const Config& config, models::Network& network, Meter& metrics, c10::Device device,
            const World& world = {});

  /// images: [B, C, H, W] float32, labels: the task's, [B] or [B, H, W] int64, both on the device, B = the
  /// configuration's batch divided by the number of processes; it is cut into optimizer.accumulation_steps equal parts.
  /// Returns the mean loss [] of the batch, without waiting for it. With cuda_graph the first steps are eager and the
  /// rest replays; then the result is overwritten by the next step.
  const at::Tensor& operator()(const at::Tensor& images, const at::Tensor& labels);

  /// The mean loss [] of a batch as the step computes it, with its graph; `answer` (may be null) gets what
  /// metrics.add() wants.
  at::Tensor loss_of(const at::Tensor& images, const at::Tensor& labels, at::Tensor* answer = nullptr);

  TrainOptimizer& optimizer() { return optimizer_; }
  LossScaler* scaler() { return scaler_ ? &*scaler_ : nullptr; }
  AveragedWeights* averages() { return averages_ ? &*averages_ : nullptr; }

 private:
  void compute(const at::Tensor& images, const at::Tensor& labels);

  const Config& config_;
  std::unique_ptr<const Task> task_;
  models::Network& network_;
  Meter& metrics_;
  c10::Device device_;
  at::ScalarType dtype_;
  TrainOptimizer optimizer_;
  std::optional<LossScaler> scaler_;
  std::optional<AveragedWeights> averages_;
  std::optional<GradientAverage> gradient_average_;
  at::Tensor loss_;
  std::unique_ptr<CudaGraph> graph_;
  at::Tensor graph_images_, graph_labels_;  // what the graph reads
  int64_t eager_steps_ = 0;
};

}  // namespace iabn::train
