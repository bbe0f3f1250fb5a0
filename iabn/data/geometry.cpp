#include "iabn/data/geometry.h"

#include <algorithm>
#include <cmath>

namespace iabn::data {
namespace {

constexpr double kMinArea = 0.08;
constexpr double kMinAspect = 3.0 / 4.0;
constexpr double kMaxAspect = 4.0 / 3.0;
constexpr int kTries = 10;

// Half of the rest, to the even number where it falls between two; negative where the crop is larger than the image.
int64_t center_offset(int64_t length, int64_t size) {
  if (length < size) return -((size - length) / 2);
  return std::llrint(static_cast<double>(length - size) / 2.0);
}

int64_t padded_offset(int64_t length, int64_t size, int64_t padding, Random& random) {
  const int64_t rest = length + 2 * padding - size;
  return rest < 0 ? center_offset(length, size) : random.below(rest + 1) - padding;
}

}  // namespace

Box scaled_size(int64_t height, int64_t width, int64_t shorter) {
  if (height <= width) return {0, 0, shorter, shorter * width / height};
  return {0, 0, shorter * height / width, shorter};
}

Box random_resized_box(int64_t height, int64_t width, Random& random) {
  const auto area = static_cast<double>(height * width);
  for (int i = 0; i < kTries; ++i) {
    const double target = area * random.uniform(kMinArea, 1.0);
    const double aspect = std::exp(random.uniform(std::log(kMinAspect), std::log(kMaxAspect)));
    const int64_t box_width = std::llrint(std::sqrt(target * aspect));
    const int64_t box_height = std::llrint(std::sqrt(target / aspect));
    if (box_width >= 1 && box_width <= width && box_height >= 1 && box_height <= height) {
      const int64_t top = random.below(height - box_height + 1);
      const int64_t left = random.below(width - box_width + 1);
      return {top, left, box_height, box_width};
    }
  }
  // At least 1: an image of 1 x 1000 pixels has no box of a permitted aspect ratio.
  int64_t box_height = height;
  int64_t box_width = width;
  const double aspect = static_cast<double>(width) / static_cast<double>(height);
  if (aspect < kMinAspect) {
    box_height = std::clamp<int64_t>(std::llrint(static_cast<double>(width) / kMinAspect), 1, height);
  } else if (aspect > kMaxAspect) {
    box_width = std::clamp<int64_t>(std::llrint(static_cast<double>(height) * kMaxAspect), 1, width);
  }
  return {(height - box_height) / 2, (width - box_width) / 2, box_height, box_width};
}

Box center_box(int64_t height, int64_t width, int64_t size) {
  return {center_offset(height, size), center_offset(width, size), size, size};
}

Box random_padded_box(int64_t height, int64_t width, int64_t size, int64_t padding, Random& random) {
  const int64_t top = padded_offset(height, size, padding, random);
  const int64_t left = padded_offset(width, size, padding, random);
  return {top, left, size, size};
}

}  // namespace iabn::data
