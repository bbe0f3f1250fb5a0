#pragma once

// What differs between the tasks that a network can be trained for. Everything else (step, optimiser, snapshots, logs,
// processes) is the same for all.

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include "iabn/data/samples.h"
#include "iabn/train/config.h"
#include "iabn/train/distributed.h"
#include "iabn/train/evaluation.h"
#include "iabn/train/metrics.h"

namespace iabn::train {

/// Of one batch.
struct Loss {
  at::Tensor mean;    // [], differentiable
  at::Tensor answer;  // what Meter::add wants of it, without a graph
};

class Task {
 public:
  virtual ~Task() = default;

  /// Training data of a folder, augmented. Throws data::DataError, and ConfigError where the network does not fit it.
  virtual std::shared_ptr<const data::Samples> train_samples(const std::filesystem::path& root) const = 0;

  /// Of a training batch: [batch], or with a label for every pixel [batch, height, width].
  virtual std::vector<int64_t> label_sizes(int64_t batch) const = 0;

  /// output: the network's; labels: of a batch of train_samples(). Called with the step's autocast; on the device
  /// alone, so that a CUDA graph can repeat it.
  virtual Loss loss(const at::Tensor& output, const at::Tensor& labels) const = 0;

  /// Of the answers that loss() gives.
  virtual std::unique_ptr<Meter> meter(c10::Device device) const = 0;

  /// Throws what train_samples() throws, and std::invalid_argument for options that are another task's.
  virtual std::unique_ptr<Evaluator> evaluator(const EvaluationOptions& options, const World& world,
                                               c10::Device device) const = 0;

  /// Columns of log.csv: named_values() of training and evaluation, "train_loss", ..., "val_...".
  virtual std::vector<std::string> columns() const = 0;
};

/// task.train_samples() of one epoch: input.repeat_train times. Throws ConfigError where they are fewer than a batch.
std::shared_ptr<const data::Samples> epoch_samples(const Task& task, const Config& config,
                                                   const std::filesystem::path& root);

/// Of config.task. The configuration must outlive it and its evaluators.
std::unique_ptr<Task> make_task(const Config& config);

/// "classification": one class per picture; top-1 and top-5 accuracy.
std::unique_ptr<Task> make_classification_task(const Config& config);
/// "segmentation": one class per pixel; mean IoU and pixel accuracy.
std::unique_ptr<Task> make_segmentation_task(const Config& config);

}  // namespace iabn::train
