#include "iabn/data/transform.h"

#include <algorithm>
#include <utility>

#include "iabn/data/error.h"
#include "iabn/data/output.h"
#include "iabn/data/resize.h"

namespace iabn::data {
namespace {

// The part of the window that lies in the image, or any pixel where nothing does.
Box visible(const Box& window, int64_t height, int64_t width) {
  const int64_t top = std::clamp<int64_t>(window.top, 0, height - 1);
  const int64_t left = std::clamp<int64_t>(window.left, 0, width - 1);
  return {top, left, std::clamp<int64_t>(window.top + window.height - top, 1, height - top),
          std::clamp<int64_t>(window.left + window.width - left, 1, width - left)};
}

Box scaled_checked(int64_t height, int64_t width, int64_t shorter) {
  const Box size = scaled_size(height, width, shorter);
  // A strip of one pixel by a thousand would become an image of a hundred million.
  if (size.height > kMaxPixels / size.width) {
    throw DecodeError("scale", std::to_string(height) + " x " + std::to_string(width),
                      "too narrow: scaled to " + std::to_string(shorter) + " it has more than " +
                          std::to_string(kMaxPixels) + " pixels");
  }
  return size;
}

}  // namespace

Transform::Transform(const InputOptions& options, Split split)
    : options_((options.validate(), options)),
      split_(split),
      size_(options.crop(split)),
      normalisation_(options.mean, options.std) {}

Plan Transform::plan(int64_t height, int64_t width, const Random& random) const {
  const bool train = split_ == Split::train;
  Plan plan{{}, {}, {}, false, random};
  const Box whole = {0, 0, height, width};
  plan.wanted = {whole, height, width, options_.scaled_decode};
  const int64_t shorter = train ? options_.scale_train : options_.scale_val;
  const bool scaled = shorter >= 1 && std::min(height, width) != shorter;
  if (scaled) {
    const Box size = scaled_checked(height, width, shorter);
    plan.wanted.height = height = size.height;
    plan.wanted.width = width = size.width;
  }
  const Augmentation kind = train ? options_.augmentation : Augmentation::none;
  plan.window = center_box(height, width, size_);
  if (kind == Augmentation::random_resized_crop) {
    plan.window = random_resized_box(height, width, plan.random);
    if (plan.window.height != size_ || plan.window.width != size_) {
      const Box box = std::exchange(plan.window, {0, 0, size_, size_});
      if (scaled) {
        plan.second = box;
      } else {
        plan.wanted = {box, size_, size_, options_.scaled_decode};
      }
    }
  } else if (kind == Augmentation::pad_crop) {
    plan.window = random_padded_box(height, width, size_, options_.padding, plan.random);
  }
  plan.mirrored = kind != Augmentation::none && plan.random.coin();
  if (plan.wanted.box.height == plan.wanted.height && plan.wanted.box.width == plan.wanted.width && !scaled &&
      crops() == 1) {
    const Box seen = visible(plan.window, height, width);
    plan.wanted = {seen, seen.height, seen.width};
    plan.window.top -= seen.top;
    plan.window.left -= seen.left;
  }
  return plan;
}

ColorChange Transform::color_change(const std::array<double, 3>& mean, Random random) const {
  ColorChange change{.channels = options_.channels};
  if (options_.color_jitter_train) color_jitter(change, mean, random);
  if (options_.lighting_train) lighting(change, random);
  for (size_t c = 0; c < static_cast<size_t>(options_.channels); ++c) {
    for (double& factor : change.matrix[c]) factor /= options_.std[c];
    change.shift[c] = (change.shift[c] - options_.mean[c]) / options_.std[c];
  }
  return change;
}

void Transform::write(const Part& part, const Plan& plan, bool channels_last, float* out) const {
  Image first, second;
  Output output{View(part.image, part.box), plan.window, plan.mirrored, channels_last, out};
  if (part.box.height != plan.wanted.height || part.box.width != plan.wanted.width) {
    first = resize(part.image, part.box, plan.wanted.height, plan.wanted.width);
    output.image = View(first, {0, 0, first.height, first.width});
  }
  if (plan.second.height > 0) {
    // Boxes of the first result are those of its view.
    const Image& source = first.pixels ? first : part.image;
    second = resize(source, plan.second, size_, size_);
    output.image = View(second, {0, 0, size_, size_});
  }
  if (crops() > 1) return write_ten(output);
  if (split_ == Split::val || !(options_.color_jitter_train || options_.lighting_train)) {
    normalisation_.write(output);
    return;
  }
  const std::array<double, 3> mean = options_.color_jitter_train ? mean_color(output) : std::array<double, 3>{};
  write_changed(output, color_change(mean, plan.random));
}

void Transform::write_ten(Output output) const {
  const int64_t height = output.image.height, width = output.image.width;
  const Box centre = center_box(height, width, size_);
  // An image smaller than the crop has its black border where the centre crop has it.
  const int64_t bottom = std::max(height - size_, centre.top), top = std::min<int64_t>(0, centre.top);
  const int64_t right = std::max(width - size_, centre.left), left = std::min<int64_t>(0, centre.left);
  const std::array<Box, 5> windows = {{{top, left, size_, size_},
                                       {top, right, size_, size_},
                                       {bottom, left, size_, size_},
                                       {bottom, right, size_, size_},
                                       centre}};
  for (const bool mirrored : {false, true}) {
    for (const Box& window : windows) {
      output.window = window;
      output.mirrored = mirrored;
      normalisation_.write(output);
      output.out += channels() * size_ * size_;
    }
  }
}

void Transform::operator()(const Image& image, const Random& random, bool channels_last, float* out) const {
  const int64_t channels = options_.channels;
  if (image.channels != channels || image.height < 1 || image.width < 1) {
    throw DataError("transform", "image",
                    "must have " + std::to_string(channels) + " channels and a pixel, got " +
                        std::to_string(image.height) + " x " + std::to_string(image.width) + " x " +
                        std::to_string(image.channels));
  }
  const Plan chosen = plan(image.height, image.width, random);
  Part part{{image.height, image.width, image.channels, image.pixels}, chosen.wanted.box};
  write(part, chosen, channels_last, out);
}

}  // namespace iabn::data
