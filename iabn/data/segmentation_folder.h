#pragma once

// Pictures with a class for every pixel.

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "iabn/data/decode.h"
#include "iabn/data/image.h"

namespace iabn::data {

/// root/SPLIT/images/NAME.{jpg,jpeg,png} and root/SPLIT/masks/NAME.png, in order of NAME; every image has a mask.
/// Read-only after opening: every member may be called from any number of threads at once.
class SegmentationFolder {
 public:
  /// split: "train", "val" or any other folder's name. Masks hold values below `classes`, or `ignore_label`. Throws
  /// DataError where the folder, all pairs or a mask are missing (naming the first few), or two images have one name.
  SegmentationFolder(const std::filesystem::path& root, const std::string& split, int64_t classes,
                     int64_t ignore_label);

  int64_t size() const;
  int64_t classes() const;
  int64_t ignore_label() const;
  /// The image's path.
  std::string name(int64_t index) const;

  /// RGB [H, W, 3]. Throws DecodeError (a bad picture) or DataError (a file that cannot be read), both with the path.
  Image image(int64_t index) const;
  /// [H, W, 1], the class of each pixel or ignore_label. Throws as image() does, and DecodeError that names both files
  /// where the size is not `height` x `width`, and one that gives the value and its place where it is outside the
  /// classes.
  Image mask(int64_t index, int64_t height, int64_t width) const;

 private:
  struct Pair {
    std::filesystem::path image, mask;
  };
  std::vector<Pair> pairs_;
  int64_t classes_, ignore_label_;
};

/// The numbers of an indexed or grey PNG of at most 8 bits, [H, W, 1]: a palette is not applied. Throws DecodeError
/// that begins with `name` for other files, colour and 16-bit ones.
Image decode_mask(std::span<const uint8_t> png, const std::string& name);

}  // namespace iabn::data
