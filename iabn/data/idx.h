#pragma once

// The MNIST files: {train,t10k}-{images-idx3,labels-idx1}-ubyte, plain or .gz.

#include <filesystem>
#include <memory>

#include "iabn/data/dataset.h"

namespace iabn::data {

/// Whether the folder holds any file of this format.
bool is_idx_folder(const std::filesystem::path& root);

/// Reads one split whole into memory, see open_dataset(). Throws DataError for a missing, truncated or inconsistent
/// file.
std::shared_ptr<const Dataset> open_idx(const std::filesystem::path& root, Split split, int64_t channels);

}  // namespace iabn::data
