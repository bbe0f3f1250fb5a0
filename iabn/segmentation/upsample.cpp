#include "iabn/segmentation/upsample.h"

#include <ATen/ATen.h>

namespace iabn::segmentation {
namespace {

// For each pixel of an edge `to` its place in an edge `from`: floor((2 i + 1) from / (2 to)).
at::Tensor nearest_places(int64_t from, int64_t to, c10::Device device) {
  const at::Tensor i = at::arange(to, at::TensorOptions(at::kLong).device(device));
  return at::floor_divide((2 * i + 1) * from, 2 * to);
}

}  // namespace

at::Tensor upsampled_rows(const at::Tensor& map, int64_t height, int64_t width, int64_t top, int64_t rows) {
  const int64_t from = map.size(1);
  at::Tensor result;  // [C, rows, w]
  if (from == height) {
    result = map.narrow(1, top, rows).to(at::kFloat);
  } else {
    const auto options = at::TensorOptions(at::kDouble).device(map.device());
    const double ratio = static_cast<double>(from) / static_cast<double>(height);
    const at::Tensor place = ((at::arange(top, top + rows, options) + 0.5) * ratio - 0.5).clamp_min_(0);
    const at::Tensor above = place.floor();
    const at::Tensor index = above.to(at::kLong);
    const at::Tensor weight = (place - above).to(at::kFloat).unsqueeze(1);
    result = at::lerp(map.index_select(1, index).to(at::kFloat),
                      map.index_select(1, (index + 1).clamp_max_(from - 1)).to(at::kFloat), weight);
  }
  if (result.size(2) == width) return result;
  return at::upsample_bilinear2d(result.unsqueeze(0), {rows, width}, /*align_corners=*/false).squeeze(0);
}

at::Tensor resized_nearest(const at::Tensor& map, int64_t height, int64_t width) {
  at::Tensor result = map;
  if (map.size(0) != height) result = result.index_select(0, nearest_places(map.size(0), height, map.device()));
  if (map.size(1) != width) result = result.index_select(1, nearest_places(map.size(1), width, map.device()));
  return result;
}

}  // namespace iabn::segmentation
