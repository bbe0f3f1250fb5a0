#include "iabn/segmentation/render.h"

#include <stdexcept>

namespace iabn::segmentation {

data::Image overlay(const data::Image& picture, const uint8_t* labels, std::span<const Color> colors) {
  data::Image result = data::make_image(picture.height, picture.width, 3);
  const int64_t step = picture.channels == 3 ? 1 : 0;
  for (int64_t i = 0; i < picture.height * picture.width; ++i) {
    if (labels[i] >= colors.size()) throw std::invalid_argument("overlay: a label has no colour");
    const Color& color = colors[labels[i]];
    for (int64_t c = 0; c < 3; ++c) {
      const int value = picture.pixels[i * picture.channels + c * step];
      result.owned[static_cast<size_t>(i * 3 + c)] = static_cast<uint8_t>((value + color[static_cast<size_t>(c)]) / 2);
    }
  }
  return result;
}

data::Image confidence_image(const float* confidence, int64_t height, int64_t width) {
  data::Image result = data::make_image(height, width, 1);
  for (int64_t i = 0; i < height * width; ++i) {
    const float value = confidence[i] * 255;
    result.owned[static_cast<size_t>(i)] = value >= 255 ? 255 : value > 0 ? static_cast<uint8_t>(value) : 0;
  }
  return result;
}

}  // namespace iabn::segmentation
