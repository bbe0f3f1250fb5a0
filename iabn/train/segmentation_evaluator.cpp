#include "iabn/train/segmentation_evaluator.h"

#include <chrono>
#include <cstdio>
#include <set>
#include <stdexcept>
#include <string>

#include <ATen/ATen.h>
#include <ATen/Context.h>
#include <c10/util/Exception.h>

#include "iabn/data/segmentation_folder.h"
#include "iabn/models/network.h"
#include "iabn/segmentation/predictor.h"
#include "iabn/train/pair_queue.h"
#include "iabn/train/precision.h"
#include "iabn/train/sample_picture.h"

namespace iabn::train {
namespace {

// Pictures differ in size: one process may have hours of work when another has none. Over Gloo, because NCCL's watchdog
// ends a process that waits longer than the group's timeout.
constexpr auto kPatience = std::chrono::hours(24 * 7);

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

// Timed algorithms are timed anew for each size of picture.
class UntimedAlgorithms {
 public:
  UntimedAlgorithms() { at::globalContext().setBenchmarkCuDNN(false); }
  ~UntimedAlgorithms() { at::globalContext().setBenchmarkCuDNN(before_); }
  UntimedAlgorithms(const UntimedAlgorithms&) = delete;
  UntimedAlgorithms& operator=(const UntimedAlgorithms&) = delete;

 private:
  bool before_ = at::globalContext().benchmarkCuDNN();
};

class SegmentationEvaluator final : public Evaluator {
 public:
  SegmentationEvaluator(const Config& config, const EvaluationOptions& options, const World& world, c10::Device device)
      : config_(config),
        options_(options),
        world_(world),
        device_(device),
        folder_(options.data, options.split, config.network.classes, config.segmentation.ignore_label) {
    // Here, and not after an epoch of training.
    segmentation::check_options(predictor_options(config, options));
  }

  int64_t images() const override { return folder_.size(); }
  std::vector<std::string> skipped() const override { return {skipped_.begin(), skipped_.end()}; }
  std::string description() const override;
  std::string note() const override { return folder_.note(); }
  bool whole_pictures() const override { return true; }
  std::optional<Evaluation> evaluate(models::Network& network, const std::function<bool()>& stop,
                                     int64_t pictures) override;

 private:
  at::Tensor truth(const data::Image& mask) const;
  segmentation::Prediction predict(const segmentation::Predictor& predictor, const LabelledPicture& pair) const;

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

segmentation::Prediction SegmentationEvaluator::predict(const segmentation::Predictor& predictor,
                                                        const LabelledPicture& pair) const {
  try {
    return predictor.predict(pair.scaled, pair.image.height, pair.image.width);
  } catch (const c10::OutOfMemoryError&) {
    throw std::runtime_error(pair.name + ": " + std::to_string(pair.image.width) + " x " +
                             std::to_string(pair.image.height) + " pixels need more memory than " + device_.str() +
                             " has free; set segmentation.window (smaller tiles) or a smaller "
                             "segmentation.longest_side in the configuration");
  }
}

std::optional<Evaluation> SegmentationEvaluator::evaluate(models::Network& network, const std::function<bool()>& stop,
                                                          int64_t pictures) {
  const at::NoGradGuard no_grad;
  const UntimedAlgorithms untimed;
  network.eval();
  const segmentation::Predictor predictor(network, predictor_options(config_, options_), device_);
  // Around the predictor's own: the weights' copies in half precision then serve all pictures.
  const Autocast autocast(device_, precision_dtype(config_.precision));
  const int64_t classes = config_.network.classes;
  segmentation::ConfusionMatrix confusion(classes, device_);
  at::Tensor not_finite = at::zeros({1}, at::TensorOptions(at::kLong).device(device_));
  PairQueue pairs(folder_, predictor, world_.rank, world_.size, options_.workers, options_.skip_corrupt);
  Evaluation result;
  int64_t images = 0;
  while (const auto pair = pairs.next()) {
    if (stop()) return std::nullopt;
    const segmentation::Prediction answer = predict(predictor, *pair);
    confusion.add(answer.labels, truth(pair->mask));
    not_finite += answer.confidence.isfinite().all().logical_not();
    if (world_.first() && images < pictures) {
      result.pictures.push_back({std::to_string(images), sample_picture(*pair, answer.labels, config_.segmentation)});
    }
    ++images;
  }
  skipped_.insert(pairs.skipped().begin(), pairs.skipped().end());
  const at::Tensor sums = world_.sum(
      at::cat({at::full({1}, images, not_finite.options()), not_finite, confusion.counts().view({-1})}).cpu(),
      kPatience);
  result.metrics.has_loss = false;
  result.metrics.images = sums[0].item<int64_t>();
  result.not_finite = sums[1].item<int64_t>();
  if (result.metrics.images == 0) throw no_image_left(options_);
  const segmentation::IouTable table =
      segmentation::iou_table(sums.slice(0, 2).view({classes, classes}), config_.segmentation.ignore_label);
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
