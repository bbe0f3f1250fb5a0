#pragma once

// One picture on its way from a file to its answer's files. read() and write() are for any thread, one at a time.

#include <exception>
#include <optional>
#include <string>

#include <ATen/core/Tensor.h>
#include <c10/core/Event.h>

#include "iabn/data/decode.h"
#include "iabn/segmentation/predictor.h"
#include "iabn/segmentation/write_png.h"
#include "iabn/train/memory_budget.h"
#include "iabn/train/predict_files.h"

namespace iabn::train {

class PredictPicture {
 public:
  PredictPicture(PictureFiles files, OutputMode mode) : files_(std::move(files)), mode_(mode) {}

  const PictureFiles& files() const { return files_; }
  /// Why the picture is left out; empty while there is no reason.
  const std::string& error() const { return error_; }

  /// Decodes and scales; whatever goes wrong becomes error(). False where `budget` has not the memory left that the
  /// picture needs from here to its end, unless `forced`: then nothing was done.
  bool read(const segmentation::Predictor& predictor, MemoryBudget& budget, bool forced);
  /// Starts the network; on a GPU it does not wait for it. Whatever the network refuses, and want of memory, becomes
  /// error(); only an error of the GPU itself, after which nothing works on it, is thrown.
  void predict(const segmentation::Predictor& predictor, c10::Device device);
  /// Waits for the answer. Logits that are no numbers become error().
  void finish();
  /// What is wrong with the name alone becomes error(); a full disk and the like throw FileError.
  void write(std::span<const segmentation::Color> colors);

 private:
  void write_files(std::span<const segmentation::Color> colors) const;
  // Names the picture unless `reason` does, and gives up what it holds.
  void leave_out(const std::string& reason);
  void leave_out(const std::exception& error);

  int64_t bytes_for(data::ImageSize size, const segmentation::PredictorOptions& options) const;

  PictureFiles files_;
  OutputMode mode_;
  MemoryBudget::Share memory_;
  std::string error_;
  int64_t height_ = 0, width_ = 0;
  data::Image image_;               // of kOverlay
  at::Tensor pixels_;               // between read() and predict()
  at::Tensor labels_, confidence_;  // on the host; confidence of kProb
  at::Tensor finite_;               // on the host: bool []
  std::optional<c10::Event> done_;  // on a GPU: the three are filled
};

}  // namespace iabn::train
