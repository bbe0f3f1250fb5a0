#include "iabn/data/segmentation_samples.h"

#include <optional>
#include <string>
#include <utility>

#include "iabn/data/error.h"

namespace iabn::data {
namespace {

class SegmentationSamples final : public Samples {
 public:
  SegmentationSamples(std::shared_ptr<const SegmentationFolder> folder, const SegmentationTransform& transform)
      : folder_(std::move(folder)), transform_(transform) {}

  int64_t size() const override { return folder_->size(); }
  std::string name(int64_t index) const override { return folder_->name(index); }
  std::string note() const override { return folder_->note(); }
  SampleShape shape() const override {
    const int64_t side = transform_.size();
    return {1, 3, side, side, {side, side}};
  }

  void read(int64_t index, const Random& random, bool channels_last, float* images, int64_t* labels) const override {
    std::optional<Plan> plan;
    int64_t height = 0, width = 0;
    const Part part = folder_->part(index, [&](int64_t image_height, int64_t image_width) {
      height = image_height, width = image_width;
      return plan.emplace(transform_.plan(height, width, random)).wanted;
    });
    transform_.write_image(part, plan.value(), channels_last, images);
    transform_.write_labels(folder_->mask(index, height, width), plan.value(), labels);
  }

 private:
  const std::shared_ptr<const SegmentationFolder> folder_;
  const SegmentationTransform transform_;
};

}  // namespace

std::shared_ptr<const Samples> segmentation_samples(std::shared_ptr<const SegmentationFolder> folder,
                                                    const InputOptions& input, const ScaleRange& scale) {
  if (!folder) throw DataError("loader", "folder", "expected a folder of pictures and masks, got none");
  const SegmentationTransform transform(input, scale, folder->ignore_label());
  return std::make_shared<SegmentationSamples>(std::move(folder), transform);
}

}  // namespace iabn::data
