#include "iabn/data/segmentation_folder.h"

#include <algorithm>
#include <array>
#include <map>
#include <span>
#include <string_view>
#include <utility>

#include "iabn/data/error.h"
#include "iabn/data/file.h"

namespace iabn::data {
namespace {

namespace fs = std::filesystem;

constexpr std::array<std::string_view, 1> kMaskExtensions = {".png"};  // anything else may lie beside the masks
constexpr size_t kShown = 3;                                           // file names in a message

void fail(const fs::path& where, const std::string& text) {
  throw DataError("segmentation_folder", where.string(), text);
}

// Files by their name without extension.
using Files = std::map<std::string, fs::path>;

Files files_of(const fs::path& folder, std::span<const std::string_view> extensions, const char* holds,
               PassedOver* others = nullptr) {
  if (!fs::is_directory(folder)) fail(folder, std::string("expected this folder, got none; it holds ") + holds);
  Files files;
  for (const std::string& name : file_names(folder, extensions, others)) {
    const auto [other, is_new] = files.emplace(fs::path(name).stem().string(), folder / name);
    if (!is_new) {
      fail(folder, "expected one file of each name, got " + other->second.filename().string() + " and " + name +
                       "; rename or remove one");
    }
  }
  return files;
}

}  // namespace

SegmentationFolder::SegmentationFolder(const fs::path& root, const std::string& split, int64_t classes,
                                       int64_t ignore_label)
    : classes_(classes), ignore_label_(ignore_label) {
  if (classes < 1 || classes > 256) {
    throw DataError("segmentation_folder", "classes", "must be 1 to 256, got " + std::to_string(classes));
  }
  const fs::path folder = root / split;
  if (!fs::is_directory(folder)) fail(folder, "expected this folder, got none; it holds images/ and masks/");
  PassedOver others;
  Files images = files_of(folder / "images", kImageExtensions, "the pictures", &others);
  note_ = passed_over_note(folder / "images", others);
  Files masks = files_of(folder / "masks", kMaskExtensions, "a PNG file for each picture, of its name");
  if (images.empty()) fail(folder / "images", "expected .jpg, .jpeg or .png files, got none");

  std::string missing;
  size_t missing_count = 0;
  for (auto& [name, image] : images) {
    const auto mask = masks.find(name);
    if (mask == masks.end()) {
      if (++missing_count <= kShown) missing += (missing.empty() ? "" : ", ") + name + ".png";
      continue;
    }
    pairs_.push_back({std::move(image), std::move(mask->second)});
  }
  if (missing_count == 0) return;
  fail(folder / "masks", "expected a mask for each of the " + std::to_string(images.size()) + " images, got none for " +
                             (missing_count == images.size() ? "any" : std::to_string(missing_count)) + " (" + missing +
                             (missing_count > kShown ? ", ..." : "") + "); masks are PNG files named as their image");
}

std::string SegmentationFolder::name(int64_t index) const {
  return pairs_.at(static_cast<size_t>(index)).image.string();
}

Image SegmentationFolder::image(int64_t index) const {
  const fs::path& file = pairs_.at(static_cast<size_t>(index)).image;
  return decode_image(read_file(file).span(), 3, file.string());
}

Part SegmentationFolder::part(int64_t index, const Choose& choose) const {
  const fs::path& file = pairs_.at(static_cast<size_t>(index)).image;
  return decode_part(read_file(file).span(), 3, file.string(), choose);
}

Image SegmentationFolder::mask(int64_t index, int64_t height, int64_t width) const {
  const Pair& pair = pairs_.at(static_cast<size_t>(index));
  const std::string name = pair.mask.string();
  Image mask = decode_mask(read_file(pair.mask).span(), name);
  const auto size = [](int64_t h, int64_t w) { return std::to_string(h) + " x " + std::to_string(w); };
  if (mask.height != height || mask.width != width) {
    throw DecodeError("segmentation_folder", name,
                      "expected the size of its image " + pair.image.string() + ", " + size(height, width) +
                          " (height x width), got " + size(mask.height, mask.width));
  }
  std::array<bool, 256> allowed{};
  std::fill_n(allowed.begin(), classes_, true);
  if (ignore_label_ >= 0 && ignore_label_ < 256) allowed[static_cast<size_t>(ignore_label_)] = true;
  const uint8_t* end = mask.pixels + mask.bytes();
  const uint8_t* bad = std::find_if(mask.pixels, end, [&](uint8_t value) { return !allowed[value]; });
  if (bad != end) {
    throw DecodeError("segmentation_folder", name,
                      "expected 0 to " + std::to_string(classes_ - 1) + " (" + std::to_string(classes_) +
                          " classes) or ignore_label " + std::to_string(ignore_label_) + ", got " +
                          std::to_string(*bad) + " at x " + std::to_string((bad - mask.pixels) % width) + ", y " +
                          std::to_string((bad - mask.pixels) / width) + "; set ignore_label, or name all classes");
  }
  return mask;
}

}  // namespace iabn::data
