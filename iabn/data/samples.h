#pragma once

// What a loader makes batches of: samples that are ready for the network, whatever its task.

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "iabn/data/dataset.h"
#include "iabn/data/options.h"
#include "iabn/data/random.h"

namespace iabn::data {

/// Every sample's.
struct SampleShape {
  int64_t crops = 1;  ///< images per sample, one behind the other
  int64_t channels = 0, height = 0, width = 0;
  std::vector<int64_t> labels;  ///< sizes of a sample's labels: none for a single number, else {height, width}

  int64_t image_numbers() const { return crops * channels * height * width; }
  int64_t label_numbers() const;
};

/// Read-only: every member may be called from any number of threads at once.
class Samples {
 public:
  virtual ~Samples() = default;

  /// Number of samples, at least 1.
  virtual int64_t size() const = 0;

  virtual SampleShape shape() const = 0;

  /// Where sample `index` of [0, size()) comes from, for messages.
  virtual std::string name(int64_t index) const = 0;

  /// As Dataset::note().
  virtual std::string note() const { return {}; }

  /// Writes image_numbers() floats, [crops, H, W, C] with channels_last, else [crops, C, H, W], and label_numbers()
  /// labels. Every random choice comes from `random`. Throws DecodeError (a bad sample) or DataError (e.g. a file that
  /// cannot be read), both with the path; what has been written by then means nothing.
  virtual void read(int64_t index, const Random& random, bool channels_last, float* images, int64_t* labels) const = 0;
};

/// Images and their class: `transforms` picks the training or the validation transforms of transform.h, whatever split
/// the dataset is. One label per sample. Throws DataError where the dataset is null or has other channels than `input`.
std::shared_ptr<const Samples> image_samples(std::shared_ptr<const Dataset> dataset, const InputOptions& input,
                                             Split transforms);

/// The samples `times` over: sample i is sample i % size() of `samples`, whose random choices are its own each time.
/// Throws DataError where times is below 1.
std::shared_ptr<const Samples> repeated_samples(std::shared_ptr<const Samples> samples, int64_t times);

}  // namespace iabn::data
