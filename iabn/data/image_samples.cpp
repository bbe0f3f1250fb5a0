#include <optional>
#include <string>
#include <utility>

#include "iabn/data/error.h"
#include "iabn/data/samples.h"
#include "iabn/data/transform.h"

namespace iabn::data {
namespace {

class ImageSamples final : public Samples {
 public:
  ImageSamples(std::shared_ptr<const Dataset> dataset, const InputOptions& input, Split transforms)
      : dataset_(std::move(dataset)), transform_(input, transforms) {}

  int64_t size() const override { return dataset_->size(); }
  std::string name(int64_t index) const override { return dataset_->name(index); }
  std::string note() const override { return dataset_->note(); }
  SampleShape shape() const override {
    return {transform_.crops(), transform_.channels(), transform_.size(), transform_.size(), {}};
  }

  void read(int64_t index, const Random& random, bool channels_last, float* images, int64_t* labels) const override {
    std::optional<Plan> plan;
    const Part part = dataset_->part(index, [&](int64_t height, int64_t width) {
      try {
        return plan.emplace(transform_.plan(height, width, random)).wanted;
      } catch (const DecodeError& e) {
        throw DecodeError("loader", name(index), e.what());
      }
    });
    transform_.write(part, plan.value(), channels_last, images);
    *labels = dataset_->label(index);
  }

 private:
  const std::shared_ptr<const Dataset> dataset_;
  const Transform transform_;
};

class RepeatedSamples final : public Samples {
 public:
  RepeatedSamples(std::shared_ptr<const Samples> samples, int64_t times)
      : samples_(std::move(samples)), times_(times), once_(samples_->size()) {}

  int64_t size() const override { return times_ * once_; }
  SampleShape shape() const override { return samples_->shape(); }
  std::string name(int64_t index) const override { return samples_->name(index % once_); }
  std::string note() const override { return samples_->note(); }
  void read(int64_t index, const Random& random, bool channels_last, float* images, int64_t* labels) const override {
    samples_->read(index % once_, random, channels_last, images, labels);
  }

 private:
  const std::shared_ptr<const Samples> samples_;
  const int64_t times_, once_;
};

}  // namespace

int64_t SampleShape::label_numbers() const {
  int64_t numbers = 1;
  for (const int64_t size : labels) numbers *= size;
  return numbers;
}

std::shared_ptr<const Samples> image_samples(std::shared_ptr<const Dataset> dataset, const InputOptions& input,
                                             Split transforms) {
  if (!dataset) throw DataError("loader", "dataset", "expected a dataset, got none");
  if (dataset->channels() != input.channels) {
    throw DataError("loader", "channels",
                    "the dataset was opened with " + std::to_string(dataset->channels()) + ", the transforms want " +
                        std::to_string(input.channels) + "; use the same options for both");
  }
  return std::make_shared<ImageSamples>(std::move(dataset), input, transforms);
}

std::shared_ptr<const Samples> repeated_samples(std::shared_ptr<const Samples> samples, int64_t times) {
  if (times < 1) throw DataError("loader", "repeat", "must be at least 1, got " + std::to_string(times));
  if (times == 1) return samples;
  return std::make_shared<RepeatedSamples>(std::move(samples), times);
}

}  // namespace iabn::data
