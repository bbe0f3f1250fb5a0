#include "iabn/train/pair_queue.h"

#include <stdexcept>
#include <utility>

#include <c10/util/Exception.h>

#include "iabn/data/error.h"

namespace iabn::train {

PairQueue::PairQueue(const data::SegmentationFolder& folder, const segmentation::Predictor& predictor, int64_t first,
                     int64_t step, int64_t workers, bool skip_corrupt)
    : folder_(folder), predictor_(predictor), next_(first), step_(step), skip_corrupt_(skip_corrupt), pool_(workers) {
  for (int64_t i = 0; i <= workers; ++i) submit();
}

void PairQueue::submit() {
  if (next_ >= folder_.size()) return;
  auto pair = std::make_shared<LabelledPicture>();
  auto job = pool_.submit(1, [this, pair, index = next_](int64_t) {
    pair->name = folder_.name(index);
    pair->image = folder_.image(index);
    pair->mask = folder_.mask(index, pair->image.height, pair->image.width);
    try {  // the folder names its files
      pair->scaled = predictor_.scaled(pair->image);
    } catch (const data::DecodeError& error) {
      throw data::DecodeError("evaluation", pair->name, error.what());
    } catch (const c10::Error& error) {
      throw std::runtime_error(pair->name + ": " + error.what_without_backtrace());
    } catch (const std::exception& error) {
      throw std::runtime_error(pair->name + ": " + error.what());
    }
  });
  slots_.push_back({std::move(pair), std::move(job)});
  next_ += step_;
}

std::optional<LabelledPicture> PairQueue::next() {
  while (!slots_.empty()) {
    const Slot slot = std::move(slots_.front());
    slots_.pop_front();
    try {
      pool_.wait(slot.job);
    } catch (const data::DecodeError& error) {
      if (!skip_corrupt_) throw;
      skipped_.emplace_back(error.what());
      submit();
      continue;
    }
    submit();
    return std::move(*slot.pair);
  }
  return std::nullopt;
}

}  // namespace iabn::train
