#include "iabn/data/output.h"

#include <algorithm>
#include <cstddef>

namespace iabn::data {
namespace {

// One row of the window: columns [first, last) of the output, not mirrored yet, show the image from `pixels` on.
struct Row {
  const uint8_t* pixels = nullptr;
  int64_t first = 0, last = 0;
};

Row row_of(const Output& o, int64_t y) {
  const int64_t source = o.window.top + y;
  if (source < 0 || source >= o.image.height) return {};
  Row row;
  row.first = std::clamp<int64_t>(-o.window.left, 0, o.window.width);
  row.last = std::clamp<int64_t>(o.image.width - o.window.left, row.first, o.window.width);
  if (row.first == row.last) return row;
  row.pixels = o.image.pixels + source * o.image.row_bytes + (o.window.left + row.first) * o.image.channels;
  return row;
}

// Grey: one table of 256 values; both layouts are the same.
void write_grey(const Output& o, const std::array<float, 256>& table) {
  const int64_t width = o.window.width;
  for (int64_t y = 0; y < o.window.height; ++y) {
    const Row row = row_of(o, y);
    float* out = o.out + y * width;
    const auto column = [&](int64_t x) { return o.mirrored ? width - 1 - x : x; };
    for (int64_t x = 0; x < row.first; ++x) out[column(x)] = table[0];
    for (int64_t x = row.first; x < row.last; ++x) out[column(x)] = table[row.pixels[x - row.first]];
    for (int64_t x = row.last; x < width; ++x) out[column(x)] = table[0];
  }
}

// write(row, count, channel stride, out) does the part of a row that shows the image.
template <class WriteRow>
void write_rgb(const Output& o, const std::array<float, 3>& black, const WriteRow& write) {
  const int64_t width = o.window.width;
  const int64_t plane = o.channels_last ? 0 : o.window.height * width;
  const int64_t pixel = o.channels_last ? 3 : 1;
  const int64_t channel = o.channels_last ? 1 : plane;
  for (int64_t y = 0; y < o.window.height; ++y) {
    const Row row = row_of(o, y);
    float* out = o.out + y * width * pixel;
    const auto fill = [&](int64_t begin, int64_t end) {
      for (int64_t x = begin; x < end; ++x) {
        for (size_t c = 0; c < 3; ++c) out[x * pixel + static_cast<int64_t>(c) * channel] = black[c];
      }
    };
    const int64_t first = o.mirrored ? width - row.last : row.first;
    const int64_t last = o.mirrored ? width - row.first : row.last;
    fill(0, first);
    fill(last, width);
    if (first < last) write(row.pixels, last - first, plane, out + first * pixel);
  }
}

}  // namespace

Normalisation::Normalisation(const std::vector<double>& mean, const std::vector<double>& std) {
  const auto normalised = [&](int byte, size_t c) {
    return (static_cast<float>(byte) / 255.0f - scale_.mean[c]) / scale_.std[c];
  };
  for (size_t c = 0; c < mean.size(); ++c) {
    scale_.mean[c] = static_cast<float>(mean[c]);
    scale_.std[c] = static_cast<float>(std[c]);
    black_[c] = normalised(0, c);
  }
  for (int byte = 0; byte < 256; ++byte) of_grey_[static_cast<size_t>(byte)] = normalised(byte, 0);
}

void Normalisation::write(const Output& output) const {
  if (output.image.channels == 1) return write_grey(output, of_grey_);
  write_rgb(output, black_, [&](const uint8_t* rgb, int64_t count, int64_t plane, float* out) {
    pixel_rows().write_normalised(rgb, count, output.mirrored, scale_, plane, out);
  });
}

void write_changed(const Output& output, const ColorChange& change) {
  if (change.channels == 1) {
    std::array<float, 256> table{};
    for (int byte = 0; byte < 256; ++byte) {
      table[static_cast<size_t>(byte)] = static_cast<float>(change.matrix[0][0] * byte / 255.0 + change.shift[0]);
    }
    return write_grey(output, table);
  }
  ByteColors colors;
  for (size_t c = 0; c < 3; ++c) {
    for (size_t k = 0; k < 3; ++k) colors.matrix[c][k] = static_cast<float>(change.matrix[c][k] / 255.0);
    colors.shift[c] = static_cast<float>(change.shift[c]);
  }
  write_rgb(output, colors.shift, [&](const uint8_t* rgb, int64_t count, int64_t plane, float* out) {
    pixel_rows().write_colors(rgb, count, output.mirrored, colors, plane, out);
  });
}

std::array<double, 3> mean_color(const Output& output) {
  std::array<int64_t, 3> sums{};
  for (int64_t y = 0; y < output.window.height; ++y) {
    const Row row = row_of(output, y);
    const int64_t count = row.last - row.first;
    if (output.image.channels == 3) {
      if (count > 0) pixel_rows().add_to(sums, row.pixels, count);
    } else {
      for (int64_t x = 0; x < count; ++x) sums[0] += row.pixels[x];
    }
  }
  std::array<double, 3> mean{};
  const auto pixels = static_cast<double>(output.window.height * output.window.width);
  for (size_t c = 0; c < 3; ++c) mean[c] = static_cast<double>(sums[c]) / (255.0 * pixels);
  return mean;
}

}  // namespace iabn::data
