#include "iabn/train/step.h"

#include <ATen/ATen.h>

#include "iabn/models/network.h"

namespace iabn::train {
namespace {

// cuDNN and cuBLAS choose their algorithms in the first; what is made once (the exchange areas of the layer's kernels,
// LibTorch's buffers) lies behind after it.
constexpr int64_t kEagerSteps = 3;

}  // namespace

TrainStep::TrainStep(const Config& config, models::Network& network, Meter& metrics, c10::Device device,
                     const World& world)
    : config_(config),
      task_(make_task(config)),
      network_(network),
      metrics_(metrics),
      device_(device),
      dtype_(precision_dtype(config.precision)),
      optimizer_(config.optimizer, network) {
  if (config.precision == "fp16") scaler_.emplace(device);
  if (config.optimizer.ema_decay > 0) averages_.emplace(network, config.optimizer.ema_decay);
  if (world.group) gradient_average_.emplace(optimizer_.parameters(), world.group);
  if (config.cuda_graph) graph_ = std::make_unique<CudaGraph>(device);
}

at::Tensor TrainStep::loss_of(const at::Tensor& images, const at::Tensor& labels, at::Tensor* answer) {
  const Autocast autocast(device_, dtype_);
  Loss loss = task_->loss(network_.forward(images), labels);
  if (answer != nullptr) *answer = std::move(loss.answer);
  return loss.mean;
}

void TrainStep::compute(const at::Tensor& images, const at::Tensor& labels) {
  const int64_t parts = config_.optimizer.accumulation_steps;
  const auto image_parts = images.chunk(parts), label_parts = labels.chunk(parts);
  optimizer_.zero_grad();
  for (int64_t part = 0; part < parts; ++part) {
    const at::Tensor& target = label_parts[static_cast<size_t>(part)];
    at::Tensor answer;
    const at::Tensor loss = loss_of(image_parts[static_cast<size_t>(part)], target, &answer);
    metrics_.add(loss, answer, target);
    answer.reset();
    const at::Tensor mean = parts > 1 ? loss / parts : loss;
    loss_ = part == 0 ? mean.detach() : loss_ + mean.detach();
    if (gradient_average_ && part == parts - 1) gradient_average_->begin();
    (scaler_ ? scaler_->scale(mean) : mean).backward();
  }
  if (gradient_average_) gradient_average_->finish();
  optimizer_.step(scaler());
  if (averages_) averages_->update();
}

const at::Tensor& TrainStep::operator()(const at::Tensor& images, const at::Tensor& labels) {
  const int64_t count = labels.size(0);
  TORCH_CHECK(count > 0 && count % config_.optimizer.accumulation_steps == 0, "a batch of ", count,
              " images cannot be cut into accumulation_steps = ", config_.optimizer.accumulation_steps, " equal parts");
  if (!graph_) {
    compute(images, labels);
  } else if (eager_steps_ < kEagerSteps) {
    graph_->run([&] { compute(images, labels); });
    ++eager_steps_;
  } else {
    if (!graph_->captured()) {
      graph_images_ = at::empty_like(images);
      graph_labels_ = at::empty_like(labels);
      graph_->capture([&] { compute(graph_images_, graph_labels_); });
    }
    TORCH_CHECK(images.sizes() == graph_images_.sizes(), "the CUDA graph was captured for images of shape ",
                graph_images_.sizes(), ", got ", images.sizes());
    graph_images_.copy_(images, /*non_blocking=*/true);
    graph_labels_.copy_(labels, /*non_blocking=*/true);
    graph_->replay();
  }
  metrics_.count(count);
  return loss_;
}

}  // namespace iabn::train
