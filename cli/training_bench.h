#pragma once

// A network in training on random data of one shape, for measurements.

#include <memory>
#include <string>

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include "iabn/models/network.h"
#include "iabn/train/config.h"
#include "iabn/train/metrics.h"
#include "iabn/train/step.h"
#include "iabn/train/task.h"

namespace iabn::cli {

/// Throws train::ConfigError where standard BatchNorm with the configuration's activation has no in-place form.
void check_comparable(const train::Config& config);

/// Batches of config.optimizer.batch_size pictures of config.input.crop_train squared until set_batch() says otherwise.
class TrainingBench {
 public:
  /// bn_mode: in place of the configuration's.
  TrainingBench(train::Config config, const std::string& bn_mode, c10::Device device);

  /// Another shape; not with a CUDA graph. Frees the batch before it makes the next.
  void set_batch(int64_t batch, int64_t side);

  at::Tensor forward();
  void backward(const at::Tensor& loss);
  void step() { step_(images_, labels_); }
  /// Bytes of the copies that autocast makes of the weights and backward keeps: no activations.
  int64_t weight_copies() const;

 private:
  train::Config config_;
  c10::Device device_;
  std::shared_ptr<models::Network> network_;
  std::unique_ptr<const train::Task> task_;
  std::unique_ptr<train::Meter> meter_;
  train::TrainStep step_;
  at::Tensor images_, labels_;
};

}  // namespace iabn::cli
