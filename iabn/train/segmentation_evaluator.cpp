#include "iabn/train/segmentation_evaluator.h"

#include <cstdio>
#include <set>
#include <string>

#include <ATen/ATen.h>

#include "iabn/data/segmentation_folder.h"
#include "iabn/models/network.h"
#include "iabn/segmentation/predictor.h"
#include "iabn/train/pair_queue.h"
#include "iabn/train/precision.h"
#include "iabn/train/sample_picture.h"

namespace iabn::train {
namespace {

segmentation::PredictorOptions predictor_options(const Config& config, const EvaluationOptions& options) {
  segmentation::PredictorOptions result;
  result.scales = options.scales;
  result.flip = options.flip;
  result.longest_side = config.segmentation.longest_side;
  result.window = config.segmentation.window > 0 ? config.segmentation.window : segmentation::kAutomaticWindow;
  result.mean = config.input.mean;
  result.std = config.input.std;
  result.channels_last = config.channels_last;
  result.dtype = precision_dtype(config.precision);
  return result;
}

class SegmentationEvaluator final : public Evaluator {
 public:
  SegmentationEvaluator(const Config& config, const EvaluationOptions& options, const World& world, c10::Device device)
      : config_(config),
        options_(options),
        world_(world),
        device_(device),
        folder_(options.data, options.split, config.network.classes, config.segmentation.ignore_label) {}

  int64_t images() const override { return folder_.size(); }
  std::vector<std::string> skipped() const override { return {skipped_.begin(), skipped_.end()}; }
  std::string description() const override;
  std::optional<Evaluation> evaluate(models::Network& network, const std::function<bool()>& stop,
                                     int64_t pictures) override;

 private:
  at::Tensor truth(const data::Image& mask) const;
  int64_t all_images(int64_t own) const;

  const Config& config_;
  EvaluationOptions options_;
  World world_;
  c10::Device device_;
  data::SegmentationFolder folder_;
  std::set<std::string> skipped_;
};

std::string SegmentationEvaluator::description() const {
  const SegmentationConfig& segmentation = config_.segmentation;
  std::string text = segmentation.window > 0 ? "window " + std::to_string(segmentation.window) : "whole images";
  if (segmentation.longest_side > 0) text += ", longest side " + std::to_string(segmentation.longest_side);
  if (options_.scales != std::vector<double>{1}) {
    text += ", scales";
    for (const double scale : options_.scales) {
      char number[32];
      std::snprintf(number, sizeof number, " %g", scale);
      text += number;
    }
  }
  return text + (options_.flip ? ", mirrored too" : "");
}

// On the device, with pixels that count nowhere below 0.
at::Tensor SegmentationEvaluator::truth(const data::Image& mask) const {
  const at::Tensor values = at::from_blob(const_cast<uint8_t*>(mask.pixels), {mask.height, mask.width}, at::kByte);
  const at::Tensor labels = values.to(at::kShort).to(device_);
  return labels.masked_fill(labels.eq(config_.segmentation.ignore_label), -1);
}

int64_t SegmentationEvaluator::all_images(int64_t own) const {
  if (!world_.group) return own;
  std::vector<at::Tensor> sum{at::full({1}, own, at::TensorOptions(at::kLong).device(device_))};
  world_.group->allreduce(sum)->wait();
  return sum.front().item<int64_t>();
}

std::optional<Evaluation> SegmentationEvaluator::evaluate(models::Network& network, const std::function<bool()>& stop,
                                                          int64_t pictures) {
  const at::NoGradGuard no_grad;
  network.eval();
  const segmentation::Predictor predictor(network, predictor_options(config_, options_), device_);
  // Around the predictor's own: the weights' copies in half precision then serve all pictures.
  const Autocast autocast(device_, precision_dtype(config_.precision));
  segmentation::ConfusionMatrix confusion(config_.network.classes, device_);
  PairQueue pairs(folder_, predictor, world_.rank, world_.size, options_.workers, options_.skip_corrupt);
  Evaluation result;
  int64_t images = 0;
  while (const auto pair = pairs.next()) {
    if (stop()) return std::nullopt;
    const at::Tensor labels = predictor.predict(pair->scaled, pair->image.height, pair->image.width).labels;
    confusion.add(labels, truth(pair->mask));
    if (world_.first() && images < pictures) {
      result.pictures.push_back({std::to_string(images), sample_picture(*pair, labels, config_.segmentation)});
    }
    ++images;
  }
  skipped_.insert(pairs.skipped().begin(), pairs.skipped().end());
  const segmentation::IouTable table = confusion.table(world_.group);
  result.metrics.has_loss = false;
  result.metrics.images = all_images(images);
  result.metrics.percents = segmentation_percents(table);
  for (size_t c = 0; c < table.iou.size(); ++c) {
    result.classes.push_back({config_.segmentation.classes[c], table.iou[c], table.pixels[c]});
  }
  return result;
}

}  // namespace

std::vector<Percent> segmentation_percents(const segmentation::IouTable& table) {
  return {{"miou", "mIoU", table.mean_iou}, {"pixel_accuracy", "pixel accuracy", table.pixel_accuracy}};
}

std::unique_ptr<Evaluator> make_segmentation_evaluator(const Config& config, const EvaluationOptions& options,
                                                       const World& world, c10::Device device) {
  return std::make_unique<SegmentationEvaluator>(config, options, world, device);
}

}  // namespace iabn::train
