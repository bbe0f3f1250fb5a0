#include "iabn/train/config.h"

#include <cerrno>
#include <cmath>
#include <cstring>
#include <fstream>

#include "iabn/data/error.h"
#include "iabn/data/segmentation_transform.h"
#include "iabn/models/registry.h"
#include "iabn/models/weight_init.h"
#include "iabn/train/config_section.h"
#include "iabn/train/parse_json.h"

namespace iabn::train {
namespace {

void check_at_least(const ConfigSection& section, const char* key, int64_t value, int64_t least) {
  if (value < least) section.fail(key, "must be at least " + std::to_string(least) + ", got " + std::to_string(value));
}

// Written so that a NaN fails, too.
void check_not_negative(const ConfigSection& section, const char* key, double value) {
  if (!(value >= 0) || std::isinf(value)) section.fail(key, "must be 0 or more, got " + std::to_string(value));
}

void check_share(const ConfigSection& section, const char* key, double value) {
  if (!(value >= 0 && value < 1)) section.fail(key, "must be 0 or more and below 1, got " + std::to_string(value));
}

void check_architecture(const ConfigSection& section, const std::string& arch) {
  const auto names = models::network_names();
  if (std::find(names.begin(), names.end(), arch) != names.end()) return;
  section.fail("arch", "\"" + arch + "\" is not in this version of iabn" + did_you_mean(arch, names) + "; it has " +
                           join(names));
}

void check_architecture_options(ConfigSection& section, const NetworkConfig& network) {
  // Of wider networks the original's training program passes neither on, and a published recipe sets input_3x3.
  if (!models::is_wider(network.arch) || std::holds_alternative<bool>(network.dilation)) {
    const std::string error = models::dilation_error(network.arch, network.dilation);
    if (!error.empty()) section.fail("dilation", error);
  }
  const std::string error = models::input_3x3_error(network.arch, network.input_3x3);
  if (!error.empty()) section.fail("input_3x3", error);
  if (section.has("width") && !models::has_width(network.arch)) {
    section.fail("width", "is for preact_resnet* only; the channels of " + network.arch + " are fixed");
  }
}

NetworkConfig read_network(ConfigSection section) {
  NetworkConfig network;
  section.read("arch", network.arch);
  section.read_choice("activation", network.activation, {"relu", "leaky_relu", "elu", "identity"});
  section.read("activation_param", network.activation_param);
  section.read("input_3x3", network.input_3x3);
  section.read_choice("bn_mode", network.bn_mode, {"standard", "inplace", "sync"});
  section.read_choice("sync_exchange", network.sync_exchange, {"auto", "collectives"});
  section.read("classes", network.classes);
  section.read("dilation", network.dilation);
  section.read("weight_gain_multiplier", network.weight_gain_multiplier);
  section.read_choice("weight_init", network.weight_init, models::weight_init_names());
  section.read("width", network.width);
  section.read_choice("gamma", network.gamma, {"signed", "legacy"});
  section.check_unknown();

  check_architecture(section, network.arch);
  check_architecture_options(section, network);
  if (network.bn_mode == "standard" && network.gamma == "legacy") {
    section.fail("gamma", "\"legacy\" needs bn_mode inplace or sync");
  }
  check_at_least(section, "classes", network.classes, 1);
  check_at_least(section, "width", network.width, 1);
  check_not_negative(section, "weight_gain_multiplier", network.weight_gain_multiplier);
  return network;
}

ScheduleConfig read_schedule(ConfigSection section) {
  ScheduleConfig schedule;
  section.read_choice("type", schedule.type,
                      {"constant", "step", "multistep", "exponential", "linear", "cosine", "poly"});
  section.read_choice("mode", schedule.mode, {"epoch", "step"});
  section.read("epochs", schedule.epochs);
  check_at_least(section, "epochs", schedule.epochs, 1);
  section.read("warmup_epochs", schedule.warmup_epochs);
  check_not_negative(section, "warmup_epochs", schedule.warmup_epochs);
  ConfigSection params = section.section("params");
  const auto require = [&](const char* key, bool needed) {
    if (!params.has(key) && needed) params.fail(key, "is required by the schedule type " + schedule.type);
  };
  require("step_size", schedule.type == "step");
  require("gamma", schedule.type == "exponential");
  require("milestones", schedule.type == "multistep");
  require("alpha", schedule.type == "linear");
  require("beta", schedule.type == "linear");
  params.read("step_size", schedule.params.step_size);
  params.read("gamma", schedule.params.gamma);
  params.read("milestones", schedule.params.milestones);
  params.read("alpha", schedule.params.alpha);
  params.read("beta", schedule.params.beta);
  params.read("power", schedule.params.power);
  if (schedule.type == "step") check_at_least(params, "step_size", schedule.params.step_size, 1);
  check_not_negative(params, "gamma", schedule.params.gamma);
  check_not_negative(params, "power", schedule.params.power);
  params.check_unknown();
  section.check_unknown();
  return schedule;
}

OptimizerConfig read_optimizer(ConfigSection section) {
  OptimizerConfig optimizer;
  section.read("batch_size", optimizer.batch_size);
  section.read_choice("type", optimizer.type, {"SGD", "Adam"});
  section.read("momentum", optimizer.momentum);
  section.read("weight_decay", optimizer.weight_decay);
  section.read("clip", optimizer.clip);
  section.read("learning_rate", optimizer.learning_rate);
  section.read("classifier_lr", optimizer.classifier_lr);
  section.read("nesterov", optimizer.nesterov);
  section.read("accumulation_steps", optimizer.accumulation_steps);
  section.read("label_smoothing", optimizer.label_smoothing);
  section.read("ema_decay", optimizer.ema_decay);
  optimizer.schedule = read_schedule(section.section("schedule"));
  section.check_unknown();

  check_at_least(section, "batch_size", optimizer.batch_size, 1);
  check_not_negative(section, "momentum", optimizer.momentum);
  check_not_negative(section, "weight_decay", optimizer.weight_decay);
  check_not_negative(section, "clip", optimizer.clip);
  check_not_negative(section, "learning_rate", optimizer.learning_rate);
  check_share(section, "label_smoothing", optimizer.label_smoothing);
  check_share(section, "ema_decay", optimizer.ema_decay);
  check_at_least(section, "accumulation_steps", optimizer.accumulation_steps, 1);
  if (optimizer.batch_size % optimizer.accumulation_steps != 0) {
    section.fail("accumulation_steps", "must divide batch_size, " + std::to_string(optimizer.batch_size) + ", got " +
                                           std::to_string(optimizer.accumulation_steps));
  }
  if (optimizer.classifier_lr != -1) check_not_negative(section, "classifier_lr", optimizer.classifier_lr);
  if (optimizer.nesterov && optimizer.type == "SGD" && optimizer.momentum == 0) {
    section.fail("nesterov", "needs a momentum above 0");
  }
  return optimizer;
}

data::InputOptions read_input(ConfigSection section) {
  data::InputOptions input;
  std::string augmentation{data::to_string(input.augmentation)};
  section.read("channels", input.channels);
  section.read_choice("augmentation", augmentation, {"random_resized_crop", "pad_crop", "flip", "none"});
  section.read("padding", input.padding);
  section.read("repeat_train", input.repeat_train);
  section.read("scaled_decode", input.scaled_decode);
  section.read("scale_train", input.scale_train);
  section.read("crop_train", input.crop_train);
  section.read("color_jitter_train", input.color_jitter_train);
  section.read("lighting_train", input.lighting_train);
  section.read("scale_val", input.scale_val);
  section.read("crop_val", input.crop_val);
  section.read("mean", input.mean);
  section.read("std", input.std);
  section.check_unknown();
  try {
    input.augmentation = data::augmentation_from_string(augmentation);
    input.validate();
  } catch (const data::DataError& error) {
    throw ConfigError(error.what());
  }
  return input;
}

void read_colors(ConfigSection& section, SegmentationConfig& segmentation) {
  std::vector<std::vector<int64_t>> colors;
  section.read("colors", colors);
  if (!section.has("colors") || colors.empty()) {
    segmentation.colors = default_colors(segmentation.classes.size());
    return;
  }
  if (colors.size() != segmentation.classes.size()) {
    section.fail("colors", "must be one [red, green, blue] for each of the " +
                               std::to_string(segmentation.classes.size()) + " classes, got " +
                               std::to_string(colors.size()));
  }
  for (size_t i = 0; i < colors.size(); ++i) {
    const auto& color = colors[i];
    if (color.size() != 3 || std::any_of(color.begin(), color.end(), [](int64_t v) { return v < 0 || v > 255; })) {
      section.fail("colors[" + std::to_string(i) + "]", "must be [red, green, blue] of 0 to 255");
    }
    segmentation.colors.push_back(
        {static_cast<uint8_t>(color[0]), static_cast<uint8_t>(color[1]), static_cast<uint8_t>(color[2])});
  }
}

void check_class_names(const ConfigSection& section, const std::vector<std::string>& names) {
  for (size_t i = 0; i < names.size(); ++i) {
    const std::string key = "classes[" + std::to_string(i) + "]";
    if (names[i].empty()) section.fail(key, "must be a name, got an empty one");
    if (std::find(names.begin(), names.begin() + static_cast<std::ptrdiff_t>(i), names[i]) !=
        names.begin() + static_cast<std::ptrdiff_t>(i)) {
      section.fail(key, "\"" + names[i] + "\" is the name of two classes");
    }
  }
}

SegmentationConfig read_segmentation(ConfigSection section) {
  SegmentationConfig segmentation;
  section.read("classes", segmentation.classes);
  if (segmentation.classes.empty()) section.fail("classes", "is required: the names of the classes in label order");
  if (segmentation.classes.size() > 255) section.fail("classes", "at most 255: masks have 8 bits");
  check_class_names(section, segmentation.classes);
  read_colors(section, segmentation);
  section.read("ignore_label", segmentation.ignore_label);
  section.read("scale_train", segmentation.scale_train);
  section.read("hard_pixels", segmentation.hard_pixels);
  section.read("window", segmentation.window);
  section.read("longest_side", segmentation.longest_side);
  section.read("head_channels", segmentation.head_channels);
  section.read("hidden_channels", segmentation.hidden_channels);
  section.read("dilations", segmentation.dilations);
  section.read("pooling_size", segmentation.pooling_size);
  section.check_unknown();

  if (segmentation.ignore_label < 0 || segmentation.ignore_label > 255) {
    section.fail("ignore_label", "must be a mask value, 0 to 255, got " + std::to_string(segmentation.ignore_label));
  }
  const auto& scale = segmentation.scale_train;
  if (scale.size() != 2 || !data::is_scale_range({scale[0], scale[1]})) {
    section.fail("scale_train", "must be [lowest, highest] within 0.01 to 16");
  }
  if (!(segmentation.hard_pixels > 0 && segmentation.hard_pixels <= 1)) {
    section.fail("hard_pixels", "must be above 0 and at most 1, got " + std::to_string(segmentation.hard_pixels));
  }
  if (segmentation.window != 0 && segmentation.window < 32) {
    section.fail("window", "must be 0 (whole pictures) or at least 32, got " + std::to_string(segmentation.window));
  }
  check_at_least(section, "longest_side", segmentation.longest_side, 0);
  check_at_least(section, "head_channels", segmentation.head_channels, 1);
  check_at_least(section, "hidden_channels", segmentation.hidden_channels, 1);
  for (const int64_t dilation : segmentation.dilations) check_at_least(section, "dilations", dilation, 1);
  const auto& pooling = segmentation.pooling_size;
  if (!pooling.empty() && (pooling.size() != 2 || pooling[0] < 1 || pooling[1] < 1)) {
    section.fail("pooling_size", "must be [height, width] of at least 1, or [] for the whole map");
  }
  return segmentation;
}

}  // namespace

std::vector<std::array<uint8_t, 3>> default_colors(size_t n) {
  std::vector<std::array<uint8_t, 3>> colors(n);
  for (size_t i = 0; i < n; ++i) {
    // Three bits of the number at a time, the lowest to the highest place of red, green and blue.
    size_t bits = i + 1;
    for (int place = 7; place >= 0 && bits != 0; --place, bits >>= 3) {
      for (size_t c = 0; c < 3; ++c) {
        colors[i][c] = static_cast<uint8_t>(colors[i][c] | (((bits >> c) & 1) << place));
      }
    }
  }
  return colors;
}

Config parse_config(const nlohmann::json& json) {
  ConfigSection section(json, "");
  Config config;
  section.read_choice("task", config.task, {"classification", "segmentation"});
  config.network = read_network(section.section("network"));
  config.optimizer = read_optimizer(section.section("optimizer"));
  config.input = read_input(section.section("input"));
  if (config.task == "segmentation") {
    config.segmentation = read_segmentation(section.section("segmentation"));
    const auto classes = static_cast<int64_t>(config.segmentation.classes.size());
    if (json.contains("network") && json["network"].contains("classes") && config.network.classes != classes) {
      section.fail("network.classes", "is " + std::to_string(config.network.classes) +
                                          ", but segmentation.classes has " + std::to_string(classes) +
                                          " names; leave it out");
    }
    config.network.classes = classes;
  } else if (section.has("segmentation")) {
    section.fail("segmentation", "is for \"task\": \"segmentation\"");
  }
  section.read("seed", config.seed);
  section.read("channels_last", config.channels_last);
  section.read_choice("precision", config.precision, {"float32", "bf16", "fp16"});
  section.read("cuda_graph", config.cuda_graph);
  section.read("deterministic", config.deterministic);
  section.check_unknown();
  check_at_least(section, "seed", config.seed, 0);
  return config;
}

void check_trainable(const Config& config) {
  const NetworkConfig& network = config.network;
  if (network.bn_mode == "standard" || network.activation == "identity") return;
  if (network.activation == "relu") {
    throw ConfigError("network.activation: relu cannot be inverted, so bn_mode " + network.bn_mode +
                      " cannot train it; use leaky_relu or elu");
  }
  if (!(network.activation_param > 0)) {
    throw ConfigError("network.activation_param: must be above 0 with bn_mode " + network.bn_mode + ", got " +
                      std::to_string(network.activation_param));
  }
}

Config load_config(const std::filesystem::path& path) {
  std::ifstream file(path);
  const int reason = errno;
  if (!file) throw ConfigError(path.string() + ": cannot be opened: " + std::strerror(reason));
  if (std::error_code none; std::filesystem::is_directory(path, none)) {
    throw ConfigError(path.string() + ": is a folder; expected a configuration file");
  }
  try {
    return parse_config(parse_json(file));
  } catch (const nlohmann::json::exception& error) {
    // The library's texts begin with "[json.exception.parse_error.101] ".
    const std::string text = error.what();
    const size_t end = text.find("] ");
    throw ConfigError(path.string() + ": " + (end == std::string::npos ? text : text.substr(end + 2)));
  } catch (const ConfigError& error) {
    throw ConfigError(path.string() + ": " + error.what());
  }
}

}  // namespace iabn::train
