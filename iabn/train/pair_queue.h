#pragma once

// Pictures and masks, decoded and scaled ahead by worker threads.

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "iabn/data/image.h"
#include "iabn/data/segmentation_folder.h"
#include "iabn/data/worker_pool.h"
#include "iabn/segmentation/predictor.h"

namespace iabn::train {

struct LabelledPicture {
  std::string name;  // the picture's path
  data::Image image, mask;
  at::Tensor scaled;  // Predictor::scaled(image)
};

/// The pairs first, first + step, ... of a folder, in this order.
class PairQueue {
 public:
  /// workers: threads; as many pairs and one more are in memory beside the one that next() gave. Folder and
  /// predictor must outlive it.
  PairQueue(const data::SegmentationFolder& folder, const segmentation::Predictor& predictor, int64_t first,
            int64_t step, int64_t workers, bool skip_corrupt);

  /// Nothing at the end. Throws the error met in reading the pair, with its path; with skip_corrupt one that cannot be
  /// decoded is left out, and its text goes to skipped().
  std::optional<LabelledPicture> next();

  const std::vector<std::string>& skipped() const { return skipped_; }

 private:
  struct Slot {
    std::shared_ptr<LabelledPicture> pair;
    std::shared_ptr<data::WorkerPool::Job> job;
  };
  void submit();

  const data::SegmentationFolder& folder_;
  const segmentation::Predictor& predictor_;
  int64_t next_, step_;
  bool skip_corrupt_;
  std::vector<std::string> skipped_;
  std::deque<Slot> slots_;
  data::WorkerPool pool_;
};

}  // namespace iabn::train
