#include "iabn/data/options.h"

#include <array>
#include <cmath>
#include <utility>

#include "iabn/data/error.h"

namespace iabn::data {
namespace {

constexpr std::array<std::pair<Augmentation, std::string_view>, 4> kAugmentations = {{
    {Augmentation::random_resized_crop, "random_resized_crop"},
    {Augmentation::pad_crop, "pad_crop"},
    {Augmentation::flip, "flip"},
    {Augmentation::none, "none"},
}};

// Keeps every product of sizes far from overflow, and one image's memory below a gigabyte.
constexpr int64_t kMaxSide = 16384;

void check_side(const char* key, int64_t value, bool off_allowed) {
  if (off_allowed && value == -1) return;
  if (value >= 1 && value <= kMaxSide) return;
  const std::string range =
      "1 to " + std::to_string(kMaxSide) + (off_allowed ? " pixels or -1 (no scaling)" : " pixels");
  throw DataError("input", key, "must be " + range + ", got " + std::to_string(value));
}

void check_per_channel(const char* key, const std::vector<double>& values, int64_t channels) {
  if (static_cast<int64_t>(values.size()) != channels) {
    throw DataError("input", key,
                    "must have " + std::to_string(channels) + " numbers (channels), got " +
                        std::to_string(values.size()) + "; set " + key + " or channels");
  }
  for (const double value : values) {
    if (!std::isfinite(value)) throw DataError("input", key, "must be finite, got " + std::to_string(value));
  }
}

}  // namespace

std::string_view to_string(Split split) { return split == Split::train ? "train" : "val"; }

std::string_view to_string(Augmentation augmentation) {
  for (const auto& [value, name] : kAugmentations) {
    if (value == augmentation) return name;
  }
  return "?";
}

Augmentation augmentation_from_string(std::string_view name) {
  std::string choices;
  for (const auto& [value, choice] : kAugmentations) {
    if (choice == name) return value;
    choices += (choices.empty() ? "" : ", ") + std::string(choice);
  }
  throw DataError("input", "augmentation", "must be one of " + choices + ", got \"" + std::string(name) + "\"");
}

void InputOptions::validate() const {
  if (channels != 1 && channels != 3) {
    throw DataError("input", "channels", "must be 3 (RGB) or 1 (grey), got " + std::to_string(channels));
  }
  check_side("scale_train", scale_train, true);
  check_side("crop_train", crop_train, false);
  check_side("scale_val", scale_val, true);
  check_side("crop_val", crop_val, false);
  if (padding < 0 || padding > kMaxSide) {
    throw DataError("input", "padding",
                    "must be 0 to " + std::to_string(kMaxSide) + ", got " + std::to_string(padding));
  }
  if (repeat_train < 1 || repeat_train > 1'000'000) {
    throw DataError("input", "repeat_train", "must be 1 to 1000000, got " + std::to_string(repeat_train));
  }
  check_per_channel("mean", mean, channels);
  check_per_channel("std", std, channels);
  for (const double value : std) {
    if (value <= 0) throw DataError("input", "std", "must be above 0, got " + std::to_string(value));
  }
  if (lighting_train && channels != 3) {
    throw DataError("input", "lighting_train",
                    "needs 3 channels, got 1; its colours are those of RGB; set it to false");
  }
}

}  // namespace iabn::data
