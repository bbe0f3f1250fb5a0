#include "iabn/train/predict_files.h"

#include <cstdint>
#include <map>
#include <stdexcept>

#include "iabn/data/error.h"
#include "iabn/data/file.h"
#include "iabn/train/atomic_file.h"

namespace iabn::train {
namespace {

namespace fs = std::filesystem;

void make_folder(const fs::path& folder) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (error || !fs::is_directory(folder)) {
    throw FileError("cannot write to " + folder.string() + ": " + (error ? error.message() : "it is not a folder"));
  }
}

void check_no_two_write_the_same(const std::vector<PictureFiles>& pictures) {
  std::map<fs::path, const PictureFiles*> writers;
  for (const PictureFiles& picture : pictures) {
    for (const fs::path& output : {picture.output, picture.confidence}) {
      if (output.empty()) continue;
      const auto [other, is_new] = writers.emplace(output, &picture);
      if (is_new) continue;
      throw data::DataError("predict", picture.input.parent_path().string(),
                            other->second->input.filename().string() + " and " + picture.input.filename().string() +
                                " would both be written to " + output.string() + "; rename one of them");
    }
  }
}

}  // namespace

OutputMode output_mode_from_name(const std::string& name) {
  if (name == "raw") return OutputMode::kRaw;
  if (name == "palette") return OutputMode::kPalette;
  if (name == "prob") return OutputMode::kProb;
  if (name == "overlay") return OutputMode::kOverlay;
  throw std::invalid_argument("output mode must be palette, raw, prob or overlay, got \"" + name + "\"");
}

bool PictureFiles::exist() const {
  std::error_code no;  // e.g. a name that is too long
  return fs::is_regular_file(output, no) && (confidence.empty() || fs::is_regular_file(confidence, no));
}

int owner(const PictureFiles& picture, int processes) {
  uint64_t hash = 0xcbf29ce484222325;
  for (const char c : picture.input.filename().string()) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3;
  return static_cast<int>(hash % static_cast<uint64_t>(processes));
}

std::vector<PictureFiles> list_pictures(const fs::path& input, const fs::path& output, OutputMode mode) {
  if (!fs::is_directory(input)) {
    throw data::DataError("predict", input.string(), "expected a folder of pictures, got none");
  }
  if (fs::exists(output) && fs::equivalent(input, output)) {
    throw std::invalid_argument("predict: " + output.string() +
                                " is the folder of the pictures themselves; write to another one");
  }
  std::vector<PictureFiles> pictures;
  for (const std::string& name : data::file_names(input)) {
    const std::string stem = fs::path(name).stem().string();
    pictures.push_back({input / name, output / (stem + ".png"),
                        mode == OutputMode::kProb ? output / (stem + "_prob.png") : fs::path()});
  }
  if (pictures.empty()) {
    throw data::DataError("predict", input.string(),
                          "expected .png, .jpg or .jpeg files, got none; subfolders are not searched");
  }
  check_no_two_write_the_same(pictures);
  make_folder(output);
  check_replaceable(output / ".iabn");  // the folder: a single picture's name may be wrong
  return pictures;
}

}  // namespace iabn::train
