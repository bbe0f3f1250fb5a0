#pragma once

// What a network is worth on a folder's images, whatever its task.

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "iabn/data/error.h"
#include "iabn/train/metrics.h"

namespace iabn::models {
class Network;
}

namespace iabn::train {

struct EvaluationOptions {
  std::filesystem::path data;
  std::string split = "val";
  int64_t batch_size = 1;  // images at a time; segmentation takes one after another
  int64_t workers = 2;     // threads that prepare data
  bool skip_corrupt = false;
  // Segmentation only:
  std::vector<double> scales = {1};  // see segmentation::PredictorOptions
  bool flip = false;
};

/// Of segmentation: one class's figures.
struct ClassResult {
  std::string name;
  double iou = 0;      // percent; NaN where neither masks nor predictions have it
  int64_t pixels = 0;  // in the masks
};

struct Picture {
  std::string name;
  std::vector<uint8_t> png;
};

struct Evaluation {
  Metrics metrics;
  int64_t not_finite = 0;  // of segmentation: images whose scores are no numbers, so that the figures mean nothing
  std::vector<ClassResult> classes;
  std::vector<Picture> pictures;  // of segmentation: what was seen in the first images; on the first process
};

/// The result as JSON: images, loss and percents by name; of segmentation also "classes", [{"name", "iou", "pixels"}],
/// null where a number is NaN.
std::string to_json_text(const Evaluation& evaluation);

/// What an evaluator throws where every image was left out.
data::DataError no_image_left(const EvaluationOptions& options);

/// The images of one split.
class Evaluator {
 public:
  virtual ~Evaluator() = default;
  /// Of all processes.
  virtual int64_t images() const = 0;
  /// How they are shown to the network, for people: "scale 256, crop 224".
  virtual std::string description() const = 0;
  /// As data::Dataset::note().
  virtual std::string note() const = 0;
  /// class_names_text() where the data name the classes; else "": the configuration does.
  virtual std::string classes() const { return {}; }
  /// The images go through the network as they are, one after another, so that it may need more memory than training.
  virtual bool whole_pictures() const { return false; }
  /// Every image once, in evaluation mode, without gradients, in the configuration's precision; each process its share.
  /// Nothing where `stop` became true, which is asked before each batch. A collective; the result is that of all, with
  /// at most so many pictures. Throws data::DataError for an image that cannot be read, and where skip_corrupt has left
  /// none, and std::runtime_error that names the image where its device has not the memory.
  virtual std::optional<Evaluation> evaluate(models::Network& network, const std::function<bool()>& stop,
                                             int64_t pictures = 0) = 0;
  /// One text per image that skip_corrupt has passed over so far.
  virtual std::vector<std::string> skipped() const = 0;
};

}  // namespace iabn::train
