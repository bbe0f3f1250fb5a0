#include "iabn/data/image_folder.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "iabn/data/decode.h"
#include "iabn/data/error.h"
#include "iabn/data/file.h"

namespace iabn::data {
namespace {

namespace fs = std::filesystem;

bool is_hidden(const std::string& name) { return name.starts_with('.'); }

// others: of what is no class; may be null.
std::vector<std::string> class_names(const fs::path& folder, PassedOver* others = nullptr) {
  std::vector<std::string> names;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder)) {
    std::string name = entry.path().filename().string();
    if (is_hidden(name)) continue;
    if (entry.is_directory()) {
      names.push_back(std::move(name));
    } else if (others != nullptr) {
      others->add(std::move(name));
    }
  }
  if (names.empty()) {
    throw DataError("open_dataset", folder.string(),
                    "expected one folder per class, got none; move the images of each class into a folder of its name");
  }
  std::sort(names.begin(), names.end());
  if (names == std::vector<std::string>{"images", "masks"}) {
    throw DataError("open_dataset", folder.string(),
                    "expected one folder per class, got images and masks, which are data of segmentation; set "
                    "\"task\": \"segmentation\" in the configuration");
  }
  return names;
}

std::vector<std::string> image_names(const fs::path& folder, PassedOver& others) {
  std::vector<std::string> names = file_names(folder, kImageExtensions, &others);
  if (names.empty()) {
    throw DataError(
        "open_dataset", folder.string(),
        "expected .jpg, .jpeg or .png files, got none" +
            (others.count == 0 ? "" : " among " + std::to_string(others.count) + " (" + others.first + ")") +
            "; add images or remove the class");
  }
  return names;
}

// Labels are places in the sorted list of names: with different lists the same label would mean different classes.
void check_same_classes(const fs::path& root) {
  const std::vector<std::string> train = class_names(root / "train");
  const std::vector<std::string> val = class_names(root / "val");
  const auto report = [&](const std::vector<std::string>& has, const std::vector<std::string>& lacks,
                          const std::string& split) {
    std::vector<std::string> missing;
    std::set_difference(has.begin(), has.end(), lacks.begin(), lacks.end(), std::back_inserter(missing));
    if (missing.empty()) return;
    throw DataError("open_dataset", (root / split).string(),
                    "expected the same classes in train and val, got no \"" + missing.front() + "\" here" +
                        (missing.size() > 1 ? " and " + std::to_string(missing.size() - 1) + " more missing" : ""));
  };
  report(train, val, "val");
  report(val, train, "train");
}

class ImageFolder final : public Dataset {
 public:
  ImageFolder(const fs::path& root, Split split, int64_t channels)
      : folder_(root / to_string(split)), channels_(channels) {
    if (!fs::is_directory(folder_)) {
      throw DataError("open_dataset", folder_.string(),
                      "expected this folder, got none; it holds one folder per class");
    }
    if (fs::is_directory(root / "train") && fs::is_directory(root / "val")) check_same_classes(root);
    PassedOver others;  // paths within folder_
    classes_ = class_names(folder_, &others);
    for (size_t label = 0; label < classes_.size(); ++label) {
      PassedOver others_here;
      for (std::string& name : image_names(folder_ / classes_[label], others_here)) {
        files_.push_back({static_cast<int64_t>(label), std::move(name)});
      }
      others.add(classes_[label] + "/" + others_here.first, others_here.count);
    }
    note_ = passed_over_note(folder_, others);
  }

  int64_t size() const override { return static_cast<int64_t>(files_.size()); }
  const std::vector<std::string>& classes() const override { return classes_; }
  int64_t channels() const override { return channels_; }
  int64_t label(int64_t index) const override { return files_.at(static_cast<size_t>(index)).label; }
  std::string name(int64_t index) const override { return path(index).string(); }
  std::string note() const override { return note_; }

  Image image(int64_t index) const override {
    const fs::path file = path(index);
    return decode_image(read_file(file).span(), channels_, file.string());
  }
  Part part(int64_t index, const Choose& choose) const override {
    const fs::path file = path(index);
    return decode_part(read_file(file).span(), channels_, file.string(), choose);
  }

 private:
  struct File {
    int64_t label;
    std::string name;
  };

  fs::path path(int64_t index) const {
    const File& file = files_.at(static_cast<size_t>(index));
    return folder_ / classes_[static_cast<size_t>(file.label)] / file.name;
  }

  fs::path folder_;
  int64_t channels_;
  std::vector<std::string> classes_;
  std::string note_;
  std::vector<File> files_;
};

}  // namespace

bool is_image_folder(const fs::path& root) {
  return fs::is_directory(root / "train") || fs::is_directory(root / "val");
}

std::shared_ptr<const Dataset> open_image_folder(const fs::path& root, Split split, int64_t channels) {
  return std::make_shared<ImageFolder>(root, split, channels);
}

}  // namespace iabn::data
