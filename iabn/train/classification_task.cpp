#include <stdexcept>
#include <utility>

#include <ATen/ATen.h>

#include "iabn/data/loader.h"
#include "iabn/models/network.h"
#include "iabn/train/build.h"
#include "iabn/train/class_names.h"
#include "iabn/train/device_loader.h"
#include "iabn/train/precision.h"
#include "iabn/train/task.h"

namespace iabn::train {
namespace {

data::Split split_of(const EvaluationOptions& options) {
  for (const data::Split split : {data::Split::val, data::Split::train}) {
    if (options.split == data::to_string(split)) return split;
  }
  throw std::invalid_argument("split " + options.split + ": an image folder of classes has val and train");
}

data::LoaderOptions loader_options(const Config& config, const EvaluationOptions& options, const World& world,
                                   c10::Device device) {
  auto loader = data::LoaderOptions::for_validation(options.batch_size, options.workers);
  loader.channels_last = config.channels_last;
  loader.pinned = device.is_cuda();
  loader.skip_corrupt = options.skip_corrupt;
  loader.rank = world.rank;
  loader.world_size = world.size;
  return loader;
}

class ClassificationEvaluator final : public Evaluator {
 public:
  ClassificationEvaluator(const Config& config, const EvaluationOptions& options, const World& world,
                          c10::Device device)
      : config_(config),
        options_(options),
        group_(world.group),
        device_(device),
        dataset_(open_checked_dataset(config, options.data, split_of(options))),
        loader_(data::image_samples(dataset_, config.input, data::Split::val),
                loader_options(config, options, world, device)),
        batches_(loader_, device) {}

  int64_t images() const override { return loader_.samples().size(); }
  std::vector<std::string> skipped() const override { return loader_.skipped(); }
  std::string note() const override { return dataset_->note(); }
  std::string classes() const override { return class_names_text(dataset_->classes()); }

  std::string description() const override {
    return "scale " + std::to_string(config_.input.scale_val) + ", crop " + std::to_string(config_.input.crop_val) +
           (config_.input.ten_crops_val ? ", ten crops" : "");
  }

  std::optional<Evaluation> evaluate(models::Network& network, const std::function<bool()>& stop,
                                     int64_t /*pictures*/) override {
    const at::NoGradGuard no_grad;
    network.eval();
    const int64_t crops = config_.input.ten_crops_val ? 10 : 1;
    MetricSums sums(device_);
    batches_.start_epoch(0);
    while (auto batch = batches_.next()) {
      if (stop()) return std::nullopt;
      at::Tensor logits;
      {
        const Autocast autocast(device_, precision_dtype(config_.precision));
        logits = network.forward(std::move(batch->images)).to(at::kFloat);
      }
      // The crops of an image are in a row.
      if (crops > 1) logits = logits.view({-1, crops, logits.size(1)}).mean(1);
      sums.add(at::cross_entropy_loss(logits, batch->labels), logits, batch->labels);
      sums.count(batch->labels.size(0));
      batches_.prefetch();
    }
    Evaluation result;
    result.metrics = sums.values(group_);
    if (result.metrics.images == 0) throw no_image_left(options_);
    return result;
  }

 private:
  const Config& config_;
  EvaluationOptions options_;
  nn::ProcessGroup group_;
  c10::Device device_;
  std::shared_ptr<const data::Dataset> dataset_;
  data::Loader loader_;
  DeviceLoader batches_;
};

class ClassificationTask final : public Task {
 public:
  explicit ClassificationTask(const Config& config) : config_(config) {}

  std::shared_ptr<const data::Samples> train_samples(const std::filesystem::path& root) const override {
    return data::image_samples(open_checked_dataset(config_, root, data::Split::train), config_.input,
                               data::Split::train);
  }

  std::vector<int64_t> label_sizes(int64_t batch) const override { return {batch}; }

  Loss loss(const at::Tensor& output, const at::Tensor& labels) const override {
    return {at::cross_entropy_loss(output, labels, {}, at::Reduction::Mean, -100, config_.optimizer.label_smoothing),
            output.detach()};
  }

  std::unique_ptr<Meter> meter(c10::Device device) const override { return std::make_unique<MetricSums>(device); }

  std::unique_ptr<Evaluator> evaluator(const EvaluationOptions& options, const World& world,
                                       c10::Device device) const override {
    if (options.flip || options.scales != std::vector<double>{1}) {
      throw std::invalid_argument("scales and flip are of segmentation; ten crops are of classification");
    }
    return std::make_unique<ClassificationEvaluator>(config_, options, world, device);
  }

  std::vector<std::string> columns() const override {
    return {"train_loss", "train_top1", "train_top5", "val_loss", "val_top1", "val_top5"};
  }

 private:
  const Config& config_;
};

}  // namespace

std::unique_ptr<Task> make_classification_task(const Config& config) {
  return std::make_unique<ClassificationTask>(config);
}

}  // namespace iabn::train
