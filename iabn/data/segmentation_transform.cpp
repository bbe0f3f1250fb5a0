#include "iabn/data/segmentation_transform.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "iabn/data/error.h"

namespace iabn::data {
namespace {

void check(const InputOptions& input, const ScaleRange& scale) {
  if (input.channels != 3) {
    throw DataError("input", "channels", "must be 3 for segmentation, got " + std::to_string(input.channels));
  }
  if (is_scale_range(scale)) return;
  throw DataError("segmentation", "scale_train",
                  "must be [lowest, highest] within 0.01 to 16, got [" + std::to_string(scale.lowest) + ", " +
                      std::to_string(scale.highest) + "]");
}

// Along one side: a box of `side` pixels of the picture becomes `size` pixels.
struct Span {
  int64_t from = 0, length = 0;  // of the picture, whole pixels inside it
  int64_t to = 0, count = 0;     // what they become in the output
};

Span random_span(int64_t length, int64_t side, int64_t size, Random& random) {
  if (side <= length) return {random.below(length - side + 1), side, 0, size};
  const int64_t before = random.below(side - length + 1);
  const auto edge = [&](int64_t at) { return (2 * at * size + side) / (2 * side); };
  // At least one pixel of the picture is seen, however small it becomes.
  const int64_t first = std::min(edge(before), size - 1);
  return {0, length, first, std::max(edge(before + length), first + 1) - first};
}

}  // namespace

bool is_scale_range(const ScaleRange& scale) {
  return scale.lowest >= 0.01 && scale.lowest <= scale.highest && scale.highest <= 16;
}

SegmentationTransform::SegmentationTransform(const InputOptions& input, const ScaleRange& scale, int64_t ignore_label)
    : image_((check(input, scale), input), Split::train),
      lowest_(std::log(scale.lowest)),
      highest_(std::log(scale.highest)),
      ignore_label_(ignore_label) {}

Plan SegmentationTransform::plan(int64_t height, int64_t width, const Random& random) const {
  Plan plan{{}, {}, {}, false, random};
  const double scale = std::exp(plan.random.uniform(lowest_, highest_));
  const int64_t side = std::max<int64_t>(1, std::llrint(static_cast<double>(size()) / scale));
  const Span rows = random_span(height, side, size(), plan.random);
  const Span columns = random_span(width, side, size(), plan.random);
  plan.wanted = {{rows.from, columns.from, rows.length, columns.length}, rows.count, columns.count};
  plan.window = {-rows.to, -columns.to, size(), size()};
  plan.mirrored = plan.random.coin();
  return plan;
}

void SegmentationTransform::write_image(const Part& part, const Plan& plan, bool channels_last, float* out) const {
  image_.write(part, plan, channels_last, out);
}

void SegmentationTransform::write_labels(const Image& mask, const Plan& plan, int64_t* out) const {
  const Box& box = plan.wanted.box;
  const int64_t height = plan.wanted.height, width = plan.wanted.width;
  const auto nearest = [](int64_t i, int64_t length, int64_t count) { return (2 * i + 1) * length / (2 * count); };
  std::vector<int64_t> columns(static_cast<size_t>(width));
  for (int64_t x = 0; x < width; ++x) columns[static_cast<size_t>(x)] = box.left + nearest(x, box.width, width);
  if (plan.mirrored) std::reverse(columns.begin(), columns.end());
  const int64_t left = plan.mirrored ? size() + plan.window.left - width : -plan.window.left;
  std::fill_n(out, size() * size(), ignore_label_);
  for (int64_t y = 0; y < height; ++y) {
    const uint8_t* row = mask.pixels + (box.top + nearest(y, box.height, height)) * mask.width;
    int64_t* to = out + (y - plan.window.top) * size() + left;
    for (const int64_t x : columns) *to++ = row[x];
  }
}

}  // namespace iabn::data
