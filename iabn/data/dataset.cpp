#include "iabn/data/dataset.h"

#include <utility>

#include "iabn/data/error.h"
#include "iabn/data/idx.h"
#include "iabn/data/image_folder.h"

namespace iabn::data {

Part Dataset::part(int64_t index, const Choose& choose) const {
  Image whole = image(index);
  const Box box = choose(whole.height, whole.width).box;
  return {std::move(whole), box};
}

std::shared_ptr<const Dataset> open_dataset(const std::filesystem::path& root, Split split,
                                            const InputOptions& options) {
  options.validate();
  if (!std::filesystem::is_directory(root)) {
    throw DataError("open_dataset", root.string(), "expected a folder, got none; check the path of the data");
  }
  if (is_image_folder(root)) return open_image_folder(root, split, options.channels);
  if (is_idx_folder(root)) return open_idx(root, split, options.channels);
  throw DataError("open_dataset", root.string(),
                  "expected train/ and val/ with one folder per class, or the files train-images-idx3-ubyte[.gz], "
                  "train-labels-idx1-ubyte[.gz], t10k-...; got neither");
}

}  // namespace iabn::data
