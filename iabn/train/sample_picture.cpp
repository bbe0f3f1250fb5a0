#include "iabn/train/sample_picture.h"

#include <algorithm>
#include <string>

#include <ATen/ATen.h>

#include "iabn/segmentation/write_png.h"

namespace iabn::train {
namespace {

constexpr int64_t kLongestSide = 512;

at::Tensor tensor_of(const data::Image& image) {
  return at::from_blob(const_cast<uint8_t*>(image.pixels), {image.height, image.width, image.channels}, at::kByte);
}

at::Tensor thinned(const at::Tensor& picture, int64_t step) {
  return picture.slice(0, 0, picture.size(0), step).slice(1, 0, picture.size(1), step);
}

}  // namespace

std::vector<uint8_t> sample_picture(const LabelledPicture& pair, const at::Tensor& labels,
                                    const SegmentationConfig& segmentation) {
  const int64_t step = (std::max(pair.image.height, pair.image.width) + kLongestSide - 1) / kLongestSide;
  at::Tensor colors = at::zeros({256, 3}, at::kByte);
  for (size_t c = 0; c < segmentation.colors.size(); ++c) {
    if (static_cast<int64_t>(c) == segmentation.ignore_label) continue;
    for (size_t i = 0; i < 3; ++i) {
      colors[static_cast<int64_t>(c)][static_cast<int64_t>(i)] = static_cast<int64_t>(segmentation.colors[c][i]);
    }
  }
  const auto colored = [&](const at::Tensor& numbers) {
    const at::Tensor thin = thinned(numbers, step).to(at::kCPU, at::kLong).contiguous();
    return colors.index_select(0, thin.view({-1})).view({thin.size(0), thin.size(1), 3});
  };
  const at::Tensor mask = tensor_of(pair.mask).squeeze(2);
  const at::Tensor all =
      at::cat({thinned(tensor_of(pair.image), step), colored(mask), colored(labels)}, 1).contiguous();
  data::Image image{all.size(0), all.size(1), 3};
  image.pixels = all.const_data_ptr<uint8_t>();
  const std::string png = segmentation::png_bytes(image);
  return {png.begin(), png.end()};
}

}  // namespace iabn::train
