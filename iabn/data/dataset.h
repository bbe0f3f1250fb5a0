#pragma once

// Labelled images: an image folder or MNIST's idx files.

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "iabn/data/decode.h"
#include "iabn/data/image.h"
#include "iabn/data/options.h"

namespace iabn::data {

/// Read-only after opening: every member may be called from any number of threads at once.
class Dataset {
 public:
  virtual ~Dataset() = default;

  /// Number of images, at least 1.
  virtual int64_t size() const = 0;

  /// Class names in label order.
  virtual const std::vector<std::string>& classes() const = 0;

  /// Channels of every image: InputOptions::channels.
  virtual int64_t channels() const = 0;

  /// Image `index` of [0, size()), decoded; valid while the dataset lives. Throws DecodeError (a bad image) or
  /// DataError (a file that cannot be read), both with the path.
  virtual Image image(int64_t index) const = 0;

  /// At least the part of it that `choose` wants, see decode_part(); throws as image() does. By default all of it.
  virtual Part part(int64_t index, const Choose& choose) const;

  /// In [0, classes().size()).
  virtual int64_t label(int64_t index) const = 0;

  /// Where the image comes from, for messages: its path, or `file[index]`.
  virtual std::string name(int64_t index) const = 0;

  /// What people should know of the whole, e.g. files that are passed over; a line, or "".
  virtual std::string note() const { return {}; }
};

/// Opens one split of a folder, whichever of these it holds:
///  - root/train/CLASS/*.{jpg,jpeg,png} and root/val/CLASS/*: labels are the classes in order of name; both splits must
///    have the same classes where both exist. Other files, and folders in those of the classes, are passed over; note()
///    says so. EXIF orientation is not applied: Pillow's Image.open() and torchvision's
///    ImageFolder, which uses it, leave the pixels as they are stored, too.
///  - {train,t10k}-{images-idx3,labels-idx1}-ubyte, plain or .gz (MNIST, Fashion-MNIST): classes are "0", "1", ... up
///  to
///    the largest training label.
/// Throws DataError when the folder is neither, or incomplete, or inconsistent.
std::shared_ptr<const Dataset> open_dataset(const std::filesystem::path& root, Split split,
                                            const InputOptions& options);

}  // namespace iabn::data
