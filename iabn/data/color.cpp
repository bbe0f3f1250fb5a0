#include "iabn/data/color.h"

#include <array>
#include <utility>

namespace iabn::data {
namespace {

constexpr double kJitter = 0.4;
constexpr double kLighting = 0.1;
constexpr std::array<float, 3> kLuma = {0.299f, 0.587f, 0.114f};
constexpr std::array<double, 3> kEigenvalues = {0.2175, 0.0188, 0.0045};
// Columns are the eigenvectors.
constexpr std::array<std::array<double, 3>, 3> kEigenvectors = {
    {{-0.5675, 0.7192, 0.4009}, {-0.5808, -0.0045, -0.8140}, {-0.5836, -0.6948, 0.4203}}};

float grey(const Pixels& p, const float* pixel) {
  if (p.channels == 1) return pixel[0];
  return kLuma[0] * pixel[0] + kLuma[1] * pixel[p.channel_stride] + kLuma[2] * pixel[2 * p.channel_stride];
}

// Every value towards reference(pixel) by `amount`, away from it where negative.
template <class Reference>
void blend(const Pixels& p, float amount, Reference reference) {
  for (int64_t i = 0; i < p.count; ++i) {
    float* pixel = p.data + i * p.pixel_stride;
    const float target = reference(pixel);
    for (int64_t c = 0; c < p.channels; ++c) {
      float& value = pixel[c * p.channel_stride];
      value += amount * (target - value);
    }
  }
}

float mean_grey(const Pixels& p) {
  double sum = 0;
  for (int64_t i = 0; i < p.count; ++i) sum += grey(p, p.data + i * p.pixel_stride);
  return static_cast<float>(sum / static_cast<double>(p.count));
}

}  // namespace

void color_jitter(const Pixels& pixels, Random& random) {
  enum Kind { saturation, brightness, contrast };
  std::array<Kind, 3> order = {saturation, brightness, contrast};
  for (int64_t i = 2; i > 0; --i) std::swap(order[i], order[random.below(i + 1)]);
  for (const Kind kind : order) {
    const auto amount = static_cast<float>(random.uniform(-kJitter, kJitter));
    switch (kind) {
      case saturation:
        blend(pixels, amount, [&](const float* pixel) { return grey(pixels, pixel); });
        break;
      case brightness:
        blend(pixels, amount, [](const float*) { return 0.0f; });
        break;
      case contrast:
        blend(pixels, amount, [mean = mean_grey(pixels)](const float*) { return mean; });
        break;
    }
  }
}

void lighting(const Pixels& pixels, Random& random) {
  std::array<double, 3> amount{};
  for (int k = 0; k < 3; ++k) amount[k] = kLighting * random.normal() * kEigenvalues[k];
  for (int c = 0; c < 3; ++c) {
    double shift = 0;
    for (int k = 0; k < 3; ++k) shift += kEigenvectors[c][k] * amount[k];
    float* channel = pixels.data + c * pixels.channel_stride;
    for (int64_t i = 0; i < pixels.count; ++i) channel[i * pixels.pixel_stride] += static_cast<float>(shift);
  }
}

}  // namespace iabn::data
