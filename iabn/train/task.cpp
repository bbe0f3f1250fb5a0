#include "iabn/train/task.h"

namespace iabn::train {

std::unique_ptr<Task> make_task(const Config& config) {
  return config.task == "segmentation" ? make_segmentation_task(config) : make_classification_task(config);
}

std::shared_ptr<const data::Samples> epoch_samples(const Task& task, const Config& config,
                                                   const std::filesystem::path& root) {
  auto samples = data::repeated_samples(task.train_samples(root), config.input.repeat_train);
  if (samples->size() < config.optimizer.batch_size) {
    throw ConfigError("optimizer.batch_size: must be at most the number of training images of an epoch, " +
                      std::to_string(samples->size()) + " in " + root.string() + ", got " +
                      std::to_string(config.optimizer.batch_size));
  }
  return samples;
}

}  // namespace iabn::train
