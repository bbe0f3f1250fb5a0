#pragma once

// Which pictures a prediction reads, and which files it writes for them.

#include <filesystem>
#include <string>
#include <vector>

namespace iabn::train {

enum class OutputMode {
  kRaw,      ///< NAME.png: the classes as grey values
  kPalette,  ///< NAME.png: the classes as indices into a palette of their colours
  kProb,     ///< as kRaw, and NAME_prob.png: the confidence x 255, rounded down, as grey values
  kOverlay,  ///< NAME.png: RGB, the classes' colours half over the picture
};

/// "raw", "palette", "prob" or "overlay"; anything else throws std::invalid_argument naming the choices.
OutputMode output_mode_from_name(const std::string& name);

struct PictureFiles {
  std::filesystem::path input, output;
  std::filesystem::path confidence;  // of kProb

  /// All that is written for the picture is there.
  bool exist() const;
};

/// The process, of `processes`, that a picture is for: the FNV-1a hash (64 bits) of its file's name modulo their
/// number. So no picture is lost or done twice where the processes see the folder at different times.
int owner(const PictureFiles& picture, int processes);

/// All .png, .jpg and .jpeg files of the folder `input` itself, extensions in any case, hidden ones passed over, in
/// order of their names; makes the folder `output`. Throws std::invalid_argument where both are the same folder;
/// data::DataError where there are no pictures, or two would be written to the same file; FileError where `output`
/// cannot be written.
std::vector<PictureFiles> list_pictures(const std::filesystem::path& input, const std::filesystem::path& output,
                                        OutputMode mode);

}  // namespace iabn::train
