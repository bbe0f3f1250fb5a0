#include "iabn/data/transform.h"

#include <algorithm>
#include <utility>

#include "iabn/data/color.h"
#include "iabn/data/error.h"
#include "iabn/data/resize.h"

namespace iabn::data {

// The part of an image that becomes the output, pixel by pixel: no resizing is left to do.
struct Transform::Window {
  Box box;                // size x size; may reach outside the image
  bool mirrored = false;  // left and right exchanged
  Image resized{};        // empty where the box is in the image itself
};

namespace {

struct Layout {
  int64_t pixel;    // elements from one pixel to the next of its row
  int64_t channel;  // from one channel to the next
};

// Writes table[c][byte] for each pixel of the box, as if the image lay in an endless black plane.
template <int64_t C>
void write_pixels(const Image& image, const Box& box, bool mirrored, const float* table, Layout layout, float* out) {
  // Columns [first, last) of the output show the image; the rest is black.
  const int64_t first = std::clamp<int64_t>(-box.left, 0, box.width);
  const int64_t last = std::clamp<int64_t>(image.width - box.left, first, box.width);
  const auto column = [&](int64_t x) { return (mirrored ? box.width - 1 - x : x) * layout.pixel; };
  const auto black = [&](float* row, int64_t begin, int64_t end) {
    for (int64_t x = begin; x < end; ++x) {
      for (int64_t c = 0; c < C; ++c) row[column(x) + c * layout.channel] = table[c * 256];
    }
  };
  for (int64_t y = 0; y < box.height; ++y) {
    float* row = out + y * box.width * layout.pixel;
    const int64_t source = box.top + y;
    if (source < 0 || source >= image.height || first == last) {
      black(row, 0, box.width);
      continue;
    }
    black(row, 0, first);
    black(row, last, box.width);
    const uint8_t* from = image.pixels + (source * image.width + box.left + first) * C;
    for (int64_t x = first; x < last; ++x, from += C) {
      for (int64_t c = 0; c < C; ++c) row[column(x) + c * layout.channel] = table[c * 256 + from[c]];
    }
  }
}

// Shorter side to `shorter`, or nothing to do: then an empty image.
Image scale(const Image& image, int64_t shorter) {
  if (shorter < 1 || std::min(image.height, image.width) == shorter) return {};
  const Box size = scaled_size(image.height, image.width, shorter);
  // A strip of one pixel by a thousand would become an image of a hundred million.
  if (size.height > kMaxPixels / size.width) {
    throw DecodeError("scale", std::to_string(image.height) + " x " + std::to_string(image.width),
                      "too narrow: scaled to " + std::to_string(shorter) + " it has more than " +
                          std::to_string(kMaxPixels) + " pixels");
  }
  return resize(image, {0, 0, image.height, image.width}, size.height, size.width);
}

}  // namespace

Transform::Transform(const InputOptions& options, Split split)
    : options_(options), split_(split), size_(options.crop(split)) {
  options_.validate();
  for (int64_t c = 0; c < options_.channels; ++c) {
    const auto mean = static_cast<float>(options_.mean[static_cast<size_t>(c)]);
    const auto std = static_cast<float>(options_.std[static_cast<size_t>(c)]);
    for (int value = 0; value < 256; ++value) {
      const float unit = static_cast<float>(value) / 255.0f;
      unit_.push_back(unit);
      normalised_.push_back((unit - mean) / std);
    }
  }
}

Transform::Window Transform::augment(const Image& image, Random& random) const {
  const bool train = split_ == Split::train;
  Image scaled = scale(image, train ? options_.scale_train : options_.scale_val);
  const Image& source = scaled.pixels ? scaled : image;
  const Augmentation kind = train ? options_.augmentation : Augmentation::none;

  Window window{center_box(source.height, source.width, size_)};
  if (kind == Augmentation::random_resized_crop) {
    const Box box = random_resized_box(source.height, source.width, random);
    if (box.height == size_ && box.width == size_) {
      window.box = box;
    } else {
      scaled = resize(source, box, size_, size_);
      window.box = {0, 0, size_, size_};
    }
  } else if (kind == Augmentation::pad_crop) {
    window.box = random_padded_box(source.height, source.width, size_, options_.padding, random);
  }
  window.mirrored = kind != Augmentation::none && random.coin();
  window.resized = std::move(scaled);
  return window;
}

void Transform::operator()(const Image& image, Random random, bool channels_last, float* out) const {
  const int64_t channels = options_.channels;
  if (image.channels != channels || image.height < 1 || image.width < 1) {
    throw DataError("transform", "image",
                    "must have " + std::to_string(channels) + " channels and a pixel, got " +
                        std::to_string(image.height) + " x " + std::to_string(image.width) + " x " +
                        std::to_string(image.channels));
  }
  const Window window = augment(image, random);
  const Image& source = window.resized.pixels ? window.resized : image;
  const bool jitter = split_ == Split::train && options_.color_jitter_train;
  const bool light = split_ == Split::train && options_.lighting_train;
  const int64_t count = size_ * size_;
  const Layout layout = channels_last ? Layout{channels, 1} : Layout{1, count};
  const float* table = (jitter || light ? unit_ : normalised_).data();
  const auto write = channels == 1 ? write_pixels<1> : write_pixels<3>;
  write(source, window.box, window.mirrored, table, layout, out);
  if (!jitter && !light) return;

  const Pixels pixels{out, count, channels, layout.pixel, layout.channel};
  if (jitter) color_jitter(pixels, random);
  if (light) lighting(pixels, random);
  for (int64_t c = 0; c < channels; ++c) {
    const auto mean = static_cast<float>(options_.mean[static_cast<size_t>(c)]);
    const auto std = static_cast<float>(options_.std[static_cast<size_t>(c)]);
    for (int64_t i = 0; i < count; ++i) {
      float& value = out[i * layout.pixel + c * layout.channel];
      value = (value - mean) / std;
    }
  }
}

}  // namespace iabn::data
