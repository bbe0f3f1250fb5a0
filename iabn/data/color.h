#pragma once

// Random changes of colour, on float pixels in [0, 1] before normalisation. Values may leave [0, 1]: nothing is
// clamped.

#include <cstdint>

#include "iabn/data/random.h"

namespace iabn::data {

/// Pixel i, channel c at data[i * pixel_stride + c * channel_stride]; strides in elements.
struct Pixels {
  float* data = nullptr;
  int64_t count = 0;
  int64_t channels = 0;
  int64_t pixel_stride = 0;
  int64_t channel_stride = 0;
};

/// Saturation, brightness and contrast in random order. Each blends with its reference, x + a (reference - x),
/// a uniform in [-0.4, 0.4): the pixel's grey, black, and the mean grey of the image.
void color_jitter(const Pixels& pixels, Random& random);

/// Adds sum_k n_k eigenvalue_k eigenvector_k to every pixel, n_k normal of deviation 0.1: the principal components of
/// ImageNet's colours (Krizhevsky et al. 2012). 3 channels.
void lighting(const Pixels& pixels, Random& random);

}  // namespace iabn::data
