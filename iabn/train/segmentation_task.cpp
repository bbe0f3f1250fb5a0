#include <cmath>

#include <ATen/ATen.h>

#include "iabn/data/segmentation_folder.h"
#include "iabn/data/segmentation_samples.h"
#include "iabn/segmentation/confusion.h"
#include "iabn/segmentation/pixel_loss.h"
#include "iabn/train/segmentation_evaluator.h"
#include "iabn/train/task.h"

namespace iabn::train {
namespace {

// The answer of a batch is the class of each pixel. A batch without a pixel that counts adds nothing but its loss, 0.
class PixelMeter final : public Meter {
 public:
  PixelMeter(const Config& config, c10::Device device)
      : Meter(device, config.network.classes * config.network.classes),
        classes_(config.network.classes),
        ignore_label_(config.segmentation.ignore_label) {}

 private:
  at::Tensor hits(const at::Tensor& answer, const at::Tensor& labels) const override {
    const at::Tensor truth = ignore_label_ < classes_ ? labels.masked_fill(labels.eq(ignore_label_), -1) : labels;
    return segmentation::confusion_counts(answer, truth, classes_).to(at::kDouble).view({-1});
  }

  std::vector<Percent> percents(const at::Tensor& hits, int64_t /*images*/) const override {
    return segmentation_percents(segmentation::iou_table(hits.view({classes_, classes_}), ignore_label_));
  }

  int64_t classes_, ignore_label_;
};

class SegmentationTask final : public Task {
 public:
  explicit SegmentationTask(const Config& config) : config_(config) {}

  std::shared_ptr<const data::Samples> train_samples(const std::filesystem::path& root) const override {
    const SegmentationConfig& segmentation = config_.segmentation;
    auto folder =
        std::make_shared<data::SegmentationFolder>(root, "train", config_.network.classes, segmentation.ignore_label);
    return data::segmentation_samples(std::move(folder), config_.input,
                                      {segmentation.scale_train[0], segmentation.scale_train[1]});
  }

  std::vector<int64_t> label_sizes(int64_t batch) const override {
    return {batch, config_.input.crop_train, config_.input.crop_train};
  }

  Loss loss(const at::Tensor& output, const at::Tensor& labels) const override {
    auto [loss, answer] = segmentation::pixel_loss(output, labels,
                                                   {.ignore_label = config_.segmentation.ignore_label,
                                                    .hard_pixels = config_.segmentation.hard_pixels,
                                                    .label_smoothing = config_.optimizer.label_smoothing});
    return {std::move(loss), std::move(answer)};
  }

  std::unique_ptr<Meter> meter(c10::Device device) const override {
    return std::make_unique<PixelMeter>(config_, device);
  }

  std::unique_ptr<Evaluator> evaluator(const EvaluationOptions& options, const World& world,
                                       c10::Device device) const override {
    return make_segmentation_evaluator(config_, options, world, device);
  }

  std::vector<std::string> columns() const override {
    return {"train_loss", "train_miou", "train_pixel_accuracy", "val_miou", "val_pixel_accuracy"};
  }

 private:
  const Config& config_;
};

}  // namespace

std::unique_ptr<Task> make_segmentation_task(const Config& config) {
  return std::make_unique<SegmentationTask>(config);
}

}  // namespace iabn::train
