#include <nlohmann/json.hpp>

#include "iabn/train/config.h"

namespace iabn::train {
namespace {

using nlohmann::json;

json schedule_json(const ScheduleConfig& schedule) {
  // Only the parameters that the type reads: a linear schedule's alpha has no meaning, and no default, elsewhere.
  json params = json::object();
  if (schedule.type == "step") params["step_size"] = schedule.params.step_size;
  if (schedule.type == "multistep") params["milestones"] = schedule.params.milestones;
  if (schedule.type == "step" || schedule.type == "multistep" || schedule.type == "exponential") {
    params["gamma"] = schedule.params.gamma;
  }
  if (schedule.type == "linear") {
    params["alpha"] = schedule.params.alpha;
    params["beta"] = schedule.params.beta;
  }
  return {{"type", schedule.type}, {"mode", schedule.mode}, {"epochs", schedule.epochs}, {"params", params}};
}

}  // namespace

json to_json(const Config& config) {
  const auto& [arch, activation, activation_param, input_3x3, bn_mode, classes, dilation, gain, init, width, gamma] =
      config.network;
  const OptimizerConfig& optimizer = config.optimizer;
  const data::InputOptions& input = config.input;
  return {{"network",
           {{"arch", arch},
            {"activation", activation},
            {"activation_param", activation_param},
            {"input_3x3", input_3x3},
            {"bn_mode", bn_mode},
            {"classes", classes},
            {"dilation", dilation},
            {"weight_gain_multiplier", gain},
            {"weight_init", init},
            {"width", width},
            {"gamma", gamma}}},
          {"optimizer",
           {{"batch_size", optimizer.batch_size},
            {"type", optimizer.type},
            {"momentum", optimizer.momentum},
            {"weight_decay", optimizer.weight_decay},
            {"clip", optimizer.clip},
            {"learning_rate", optimizer.learning_rate},
            {"classifier_lr", optimizer.classifier_lr},
            {"nesterov", optimizer.nesterov},
            {"schedule", schedule_json(optimizer.schedule)}}},
          {"input",
           {{"channels", input.channels},
            {"augmentation", std::string(data::to_string(input.augmentation))},
            {"padding", input.padding},
            {"scaled_decode", input.scaled_decode},
            {"scale_train", input.scale_train},
            {"crop_train", input.crop_train},
            {"color_jitter_train", input.color_jitter_train},
            {"lighting_train", input.lighting_train},
            {"scale_val", input.scale_val},
            {"crop_val", input.crop_val},
            {"mean", input.mean},
            {"std", input.std}}},
          {"seed", config.seed},
          {"channels_last", config.channels_last}};
}

}  // namespace iabn::train
