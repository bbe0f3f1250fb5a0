#pragma once

// Random changes of colour. Every one of them is affine in a pixel's values, so all of them together are one matrix and
// one shift, applied once: after the resize, together with the normalisation. Values may leave [0, 1]: nothing is
// clamped.

#include <array>
#include <cstdint>

#include "iabn/data/random.h"

namespace iabn::data {

/// out[c] = sum over k of matrix[c][k] * in[k], plus shift[c]; c and k below `channels`, values in [0, 1].
struct ColorChange {
  int64_t channels = 3;  ///< 3 or 1
  std::array<std::array<double, 3>, 3> matrix{{{1, 0, 0}, {0, 1, 0}, {0, 0, 1}}};
  std::array<double, 3> shift{};
};

/// Appends saturation, brightness and contrast in random order. Each blends with its reference, x + a (reference - x),
/// a uniform in [-0.4, 0.4): the pixel's grey, black, and the mean grey of the image. mean: of the image's pixels
/// before any change, per channel.
void color_jitter(ColorChange& change, const std::array<double, 3>& mean, Random& random);

/// Appends sum_k n_k eigenvalue_k eigenvector_k to every pixel, n_k normal of deviation 0.1: the principal components
/// of ImageNet's colours (Krizhevsky et al. 2012). 3 channels.
void lighting(ColorChange& change, Random& random);

}  // namespace iabn::data
