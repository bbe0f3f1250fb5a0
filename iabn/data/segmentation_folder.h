#pragma once

// Pictures with a class for every pixel.

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "iabn/data/decode.h"
#include "iabn/data/image.h"

namespace iabn::data {

/// root/SPLIT/images/NAME.{jpg,jpeg,png} and root/SPLIT/masks/NAME.png, in order of NAME; every image has a mask. Masks
/// without an image are passed over, as are hidden and other files; note() names what else lies beside the images.
/// Read-only after opening: every member may be called from any number of threads at once.
class SegmentationFolder {
 public:
  /// split: "train", "val" or any other folder's name. Masks hold values below `classes` (at most 256), or
  /// `ignore_label`. Throws DataError where a folder, all images or a mask are missing (naming the first few), or two
  /// files of a folder have one NAME. No file is opened before it is asked for.
  SegmentationFolder(const std::filesystem::path& root, const std::string& split, int64_t classes,
                     int64_t ignore_label);

  int64_t size() const { return static_cast<int64_t>(pairs_.size()); }
  int64_t classes() const { return classes_; }
  int64_t ignore_label() const { return ignore_label_; }
  /// The image's path.
  std::string name(int64_t index) const;
  /// As Dataset::note().
  const std::string& note() const { return note_; }

  /// RGB [H, W, 3]. Throws DecodeError (a bad picture) or DataError (a file that cannot be read), both with the path.
  Image image(int64_t index) const;
  /// At least the part of it that `choose` wants, see decode_part(); throws as image() does.
  Part part(int64_t index, const Choose& choose) const;
  /// [H, W, 1], the class of each pixel or ignore_label. Throws as image() does, DecodeError that names both files
  /// where the size is not `height` x `width`, and one that gives the value and its place where it is neither.
  Image mask(int64_t index, int64_t height, int64_t width) const;

 private:
  struct Pair {
    std::filesystem::path image, mask;
  };
  std::vector<Pair> pairs_;
  std::string note_;
  int64_t classes_, ignore_label_;
};

}  // namespace iabn::data
