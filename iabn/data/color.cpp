#include "iabn/data/color.h"

#include <array>
#include <utility>

namespace iabn::data {
namespace {

constexpr double kJitter = 0.4;
constexpr double kLighting = 0.1;
constexpr std::array<double, 3> kLuma = {0.299, 0.587, 0.114};
constexpr std::array<double, 3> kEigenvalues = {0.2175, 0.0188, 0.0045};
// Columns are the eigenvectors.
constexpr std::array<std::array<double, 3>, 3> kEigenvectors = {
    {{-0.5675, 0.7192, 0.4009}, {-0.5808, -0.0045, -0.8140}, {-0.5836, -0.6948, 0.4203}}};

double grey(const ColorChange& change, const std::array<double, 3>& pixel) {
  if (change.channels == 1) return pixel[0];
  return kLuma[0] * pixel[0] + kLuma[1] * pixel[1] + kLuma[2] * pixel[2];
}

std::array<double, 3> apply(const ColorChange& change, const std::array<double, 3>& pixel) {
  std::array<double, 3> out = change.shift;
  for (int64_t c = 0; c < change.channels; ++c) {
    for (int64_t k = 0; k < change.channels; ++k) out[c] += change.matrix[c][k] * pixel[k];
  }
  return out;
}

// x + a (reference - x) where the reference is the pixel's grey.
void blend_with_grey(ColorChange& change, double amount) {
  const ColorChange before = change;
  const auto blend = [amount](double value, double reference) { return value + amount * (reference - value); };
  // Every column of the matrix, and the shift, is changed as a pixel would be.
  for (int64_t k = 0; k < change.channels; ++k) {
    const std::array<double, 3> column = {before.matrix[0][k], before.matrix[1][k], before.matrix[2][k]};
    for (int64_t c = 0; c < change.channels; ++c) change.matrix[c][k] = blend(column[c], grey(change, column));
  }
  for (int64_t c = 0; c < change.channels; ++c) change.shift[c] = blend(before.shift[c], grey(change, before.shift));
}

// The same where the reference is one number.
void blend_with(ColorChange& change, double amount, double reference) {
  for (int64_t c = 0; c < change.channels; ++c) {
    for (double& factor : change.matrix[c]) factor *= 1 - amount;
    change.shift[c] += amount * (reference - change.shift[c]);
  }
}

}  // namespace

void color_jitter(ColorChange& change, const std::array<double, 3>& mean, Random& random) {
  enum Kind { saturation, brightness, contrast };
  std::array<Kind, 3> order = {saturation, brightness, contrast};
  for (int64_t i = 2; i > 0; --i) std::swap(order[i], order[random.below(i + 1)]);
  for (const Kind kind : order) {
    const auto amount = random.uniform(-kJitter, kJitter);
    switch (kind) {
      case saturation:
        blend_with_grey(change, amount);
        break;
      case brightness:
        blend_with(change, amount, 0);
        break;
      case contrast:
        blend_with(change, amount, grey(change, apply(change, mean)));  // the mean of an affine change is its own
        break;
    }
  }
}

void lighting(ColorChange& change, Random& random) {
  std::array<double, 3> amount{};
  for (int k = 0; k < 3; ++k) amount[k] = kLighting * random.normal() * kEigenvalues[k];
  for (int c = 0; c < 3; ++c) {
    for (int k = 0; k < 3; ++k) change.shift[c] += kEigenvectors[c][k] * amount[k];
  }
}

}  // namespace iabn::data
