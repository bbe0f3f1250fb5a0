#include <nlohmann/json.hpp>

#include "iabn/models/registry.h"
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
  if (schedule.type == "poly") params["power"] = schedule.params.power;
  return {{"type", schedule.type},
          {"mode", schedule.mode},
          {"epochs", schedule.epochs},
          {"warmup_epochs", schedule.warmup_epochs},
          {"params", params}};
}

json segmentation_json(const SegmentationConfig& segmentation) {
  return {{"classes", segmentation.classes},
          {"colors", segmentation.colors},
          {"ignore_label", segmentation.ignore_label},
          {"scale_train", segmentation.scale_train},
          {"hard_pixels", segmentation.hard_pixels},
          {"window", segmentation.window},
          {"longest_side", segmentation.longest_side},
          {"head_channels", segmentation.head_channels},
          {"hidden_channels", segmentation.hidden_channels},
          {"dilations", segmentation.dilations},
          {"pooling_size", segmentation.pooling_size}};
}

json dilation_json(const models::Dilation& dilation) {
  if (const auto* number = std::get_if<int64_t>(&dilation)) return *number;
  if (const auto* on = std::get_if<bool>(&dilation)) return *on;
  json list = json::array();
  for (const auto& module : std::get<std::vector<models::ModuleDilation>>(dilation)) {
    std::visit([&](const auto& entry) { list.push_back(entry); }, module);
  }
  return list;
}

}  // namespace

json to_json(const Config& config) {
  const auto& [arch, activation, activation_param, input_3x3, bn_mode, classes, dilation, gain, init, width, exchange,
               gamma] = config.network;
  const OptimizerConfig& optimizer = config.optimizer;
  const data::InputOptions& input = config.input;
  json result = {{"network",
                  {{"arch", arch},
                   {"activation", activation},
                   {"activation_param", activation_param},
                   {"input_3x3", input_3x3},
                   {"bn_mode", bn_mode},
                   {"sync_exchange", exchange},
                   {"classes", classes},
                   {"dilation", dilation_json(dilation)},
                   {"weight_gain_multiplier", gain},
                   {"weight_init", init},
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
                   {"accumulation_steps", optimizer.accumulation_steps},
                   {"label_smoothing", optimizer.label_smoothing},
                   {"ema_decay", optimizer.ema_decay},
                   {"schedule", schedule_json(optimizer.schedule)}}},
                 {"input",
                  {{"channels", input.channels},
                   {"augmentation", std::string(data::to_string(input.augmentation))},
                   {"padding", input.padding},
                   {"repeat_train", input.repeat_train},
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
                 {"channels_last", config.channels_last},
                 {"precision", config.precision},
                 {"cuda_graph", config.cuda_graph},
                 {"deterministic", config.deterministic}};
  if (models::has_width(arch)) result["network"]["width"] = width;  // elsewhere it would be refused
  if (config.task == "segmentation") {
    result["task"] = config.task;
    result["segmentation"] = segmentation_json(config.segmentation);
  }
  return result;
}

}  // namespace iabn::train
