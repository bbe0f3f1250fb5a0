#include "iabn/train/task.h"

namespace iabn::train {

std::unique_ptr<Task> make_task(const Config& config) {
  return config.task == "segmentation" ? make_segmentation_task(config) : make_classification_task(config);
}

}  // namespace iabn::train
