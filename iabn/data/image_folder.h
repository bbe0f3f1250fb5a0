#pragma once

// root/{train,val}/CLASS/*.{jpg,jpeg,png}, as ImageNet is usually kept.

#include <filesystem>
#include <memory>

#include "iabn/data/dataset.h"

namespace iabn::data {

/// Whether the folder holds train/ or val/.
bool is_image_folder(const std::filesystem::path& root);

/// Lists one split, see open_dataset(); images are read when asked for. Extensions in any case; hidden files and
/// folders are passed over; images are looked for in the class folder itself, not deeper. Labels are the places of the
/// classes' names in the order of their bytes.
std::shared_ptr<const Dataset> open_image_folder(const std::filesystem::path& root, Split split, int64_t channels);

}  // namespace iabn::data
