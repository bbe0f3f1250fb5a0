#include "cli/training_bench.h"

#include <utility>

#include <ATen/ATen.h>

#include "iabn/train/build.h"

namespace iabn::cli {
namespace {

train::Config with_mode(train::Config config, const std::string& bn_mode) {
  config.network.bn_mode = bn_mode;
  // The same function on both sides: legacy gamma exists in place only.
  config.network.gamma = "signed";
  return config;
}

}  // namespace

void check_comparable(const train::Config& config) {
  if (config.network.activation != "relu") return;
  throw train::ConfigError("network.activation: relu has no in-place form to compare; use leaky_relu or elu");
}

TrainingBench::TrainingBench(train::Config config, const std::string& bn_mode, c10::Device device)
    : config_(with_mode(std::move(config), bn_mode)),
      device_(device),
      network_(train::build_network(config_, device)),
      task_(train::make_task(config_)),
      meter_(task_->meter(device)),
      step_(config_, *network_, *meter_, device) {
  set_batch(config_.optimizer.batch_size, config_.input.crop_train);
  network_->train();
}

void TrainingBench::set_batch(int64_t batch, int64_t side) {
  images_ = at::Tensor();
  labels_ = at::Tensor();
  config_.input.crop_train = side;  // label_sizes() asks for it
  images_ = at::randn({batch, config_.input.channels, side, side}).to(device_);
  if (config_.channels_last) images_ = images_.contiguous(at::MemoryFormat::ChannelsLast);
  labels_ = at::randint(config_.network.classes, task_->label_sizes(batch), at::kLong).to(device_);
}

at::Tensor TrainingBench::forward() {
  step_.optimizer().zero_grad();
  return step_.loss_of(images_, labels_);
}

void TrainingBench::backward(const at::Tensor& loss) {
  loss.backward();
  step_.optimizer().step();
}

int64_t TrainingBench::weight_copies() const {
  int64_t bytes = 0;
  for (const auto& parameter : network_->parameters()) bytes += parameter.dim() >= 2 ? 2 * parameter.numel() : 0;
  return config_.precision == "float32" ? 0 : bytes;
}

}  // namespace iabn::cli
