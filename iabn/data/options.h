#pragma once

// The "input" section of a configuration: what happens to an image between its file and the network.

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace iabn::data {

enum class Split { train, val };

/// "train" or "val".
std::string_view to_string(Split split);

/// What gives a training image its size and variety. The output is always crop_train x crop_train.
enum class Augmentation {
  random_resized_crop,  ///< a random box (area 0.08 to 1, aspect 3/4 to 4/3) resized to the crop, then a random flip
  pad_crop,             ///< `padding` black pixels on every side, a random crop, then a random flip
  flip,                 ///< centre crop, then a random flip
  none,                 ///< centre crop
};

/// "random_resized_crop", "pad_crop", "flip" or "none"; anything else throws DataError naming the choices.
Augmentation augmentation_from_string(std::string_view name);
std::string_view to_string(Augmentation augmentation);

/// Field names are the keys of the JSON section, defaults its defaults. Sizes are in pixels.
struct InputOptions {
  int64_t channels = 3;  ///< 3 = RGB, 1 = grey; files are converted either way
  Augmentation augmentation = Augmentation::random_resized_crop;
  int64_t padding = 4;              ///< of pad_crop
  int64_t repeat_train = 1;         ///< how often an epoch goes over the training images
  bool scaled_decode = false;       ///< JPEG files no larger than needed; faster, other pixel values
  int64_t scale_train = -1;         ///< length of the shorter side before the augmentation; -1 = as it is
  int64_t crop_train = 224;         ///< side of the square that training sees
  bool color_jitter_train = false;  ///< saturation, brightness, contrast within +-0.4, in random order
  bool lighting_train = false;      ///< noise along the principal colours of ImageNet, deviation 0.1; needs 3 channels
  int64_t scale_val = 256;          ///< length of the shorter side; -1 = as it is
  int64_t crop_val = 224;           ///< side of the centre crop; a smaller image is padded with black
  bool ten_crops_val = false;       ///< not a key: corners and centre, then mirrored, in place of the centre crop
  std::vector<double> mean = {0.485, 0.456, 0.406};  ///< one per channel, of values in [0, 1]
  std::vector<double> std = {0.229, 0.224, 0.225};   ///< one per channel

  /// Throws DataError for a value that no image could satisfy; the text names the key.
  void validate() const;

  /// Side of the square images of a split.
  int64_t crop(Split split) const { return split == Split::train ? crop_train : crop_val; }
};

}  // namespace iabn::data
