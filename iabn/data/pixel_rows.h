#pragma once

// Rows of RGB bytes to rows of floats, vectorised.

#include <array>
#include <cstdint>
#include <vector>

namespace iabn::data {

/// An affine change of RGB bytes: out[c] = sum over k of matrix[c][k] * in[k], plus shift[c]; single precision.
struct ByteColors {
  std::array<std::array<float, 3>, 3> matrix{};
  std::array<float, 3> shift{};
};

/// out[c] = (in[c] / 255 - mean[c]) / std[c], each step rounded to single precision: the same bits everywhere.
struct ByteScale {
  std::array<float, 3> mean{};
  std::array<float, 3> std{};
};

/// The functions of one instruction set.
struct PixelRows {
  const char* name;

  /// Changes `count` pixels of a row and writes channel c of pixel x to out[x * 3 + c], or to
  /// out[c * channel_stride + x] where channel_stride is above 0. mirrored: the last pixel first.
  void (*write_colors)(const uint8_t* rgb, int64_t count, bool mirrored, const ByteColors& colors,
                       int64_t channel_stride, float* out);

  /// The same with another change.
  void (*write_normalised)(const uint8_t* rgb, int64_t count, bool mirrored, const ByteScale& scale,
                           int64_t channel_stride, float* out);

  /// Adds the `count` pixels of a row to the sums per channel.
  void (*add_to)(std::array<int64_t, 3>& sums, const uint8_t* rgb, int64_t count);
};

/// Those that this processor can run, slowest first; never empty.
const std::vector<PixelRows>& supported_pixel_rows();

/// The fastest.
inline const PixelRows& pixel_rows() { return supported_pixel_rows().back(); }

}  // namespace iabn::data
