#include "iabn/train/validator.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <stdexcept>
#include <string_view>
#include <utility>

#include "iabn/io/checkpoint.h"
#include "iabn/models/network.h"
#include "iabn/train/atomic_file.h"
#include "iabn/train/build.h"
#include "iabn/train/class_names.h"
#include "iabn/train/device.h"
#include "iabn/train/distributed.h"
#include "iabn/train/interrupt.h"
#include "iabn/train/parse_json.h"
#include "iabn/train/snapshot.h"
#include "iabn/train/task.h"

namespace iabn::train {
namespace {

void apply(const ValidateOptions& options, Config& config) {
  const bool of_classes = options.scale || options.crop || options.ten_crops || options.batch_size;
  if (config.task != "classification" && of_classes) {
    throw std::invalid_argument(
        "scale, crop, ten crops and batch size are for classification; segmentation has scales and flip, and takes one "
        "picture after another");
  }
  config.cuda_graph = false;  // of training
  if (options.scale) config.input.scale_val = *options.scale;
  if (options.crop) config.input.crop_val = *options.crop;
  config.input.ten_crops_val = options.ten_crops;
  config.network.gamma = "signed";  // legacy weights are read as such
}

EvaluationOptions evaluation_options(const ValidateOptions& options, const Config& config, const World& world) {
  const int64_t crops = options.ten_crops ? 10 : 1;
  EvaluationOptions result;
  result.data = options.data;
  result.split = options.split;
  result.batch_size =
      options.batch_size.value_or(std::max<int64_t>(1, config.optimizer.batch_size / world.size / crops));
  result.workers = options.workers;
  result.skip_corrupt = options.skip_corrupt;
  result.scales = options.scales;
  result.flip = options.flip;
  return result;
}

// Keys of a configuration, or beginnings of them, that change no figure of an evaluation.
constexpr std::array<std::string_view, 18> kOfTraining = {"optimizer.",           "seed",
                                                          "cuda_graph",           "deterministic",
                                                          "channels_last",        "network.weight_",
                                                          "network.gamma",        "network.bn_mode",
                                                          "input.augmentation",   "input.padding",
                                                          "input.repeat_train",   "input.scale_train",
                                                          "input.crop_train",     "input.color_jitter_train",
                                                          "input.lighting_train", "segmentation.scale_train",
                                                          "segmentation.hard",    "segmentation.colors"};

// A line on what of the snapshot's own configuration is another one here, and gives other figures; "" for nothing.
std::string config_note(const std::string& of_snapshot, const Config& config) {
  std::vector<std::string> differences;
  try {
    differences = config_differences(to_json(parse_config(parse_json(of_snapshot))), to_json(config));
  } catch (const std::exception& error) {
    return std::string("the snapshot's configuration cannot be read: ") + error.what();
  }
  std::erase_if(differences, [](const std::string& text) {
    return std::any_of(kOfTraining.begin(), kOfTraining.end(), [&](auto key) { return text.starts_with(key); });
  });
  return differences.empty() ? "" : "another configuration than the snapshot's: " + joined_differences(differences);
}

// The same of the classes; throws where that would be an error.
std::string classes_note(const ValidateOptions& options, const std::string& of_snapshot, const std::string& of_data) {
  const std::string text = joined_differences(class_differences(of_snapshot, of_data));
  if (text.empty()) return "";
  if (options.any_classes) return "other classes than the snapshot's: " + text;
  throw WeightsError(options.checkpoint.string() + ": " + other_classes(text, "--any-classes"));
}

void print_classes(const std::vector<ClassResult>& classes) {
  size_t width = 5;
  for (const ClassResult& result : classes) width = std::max(width, result.name.size());
  if (!classes.empty()) std::printf("%-*s  %7s  %12s\n", static_cast<int>(width), "class", "IoU", "pixels");
  for (const ClassResult& result : classes) {
    char iou[16] = "-";
    if (std::isfinite(result.iou)) std::snprintf(iou, sizeof iou, "%.2f %%", result.iou);
    std::printf("%-*s  %7s  %12lld\n", static_cast<int>(width), result.name.c_str(), iou,
                static_cast<long long>(result.pixels));
  }
}

// given: the configuration before the options were applied to it.
Evaluation validate_share(const World& world, const Config& given, const Config& config,
                          const ValidateOptions& options) {
  const c10::Device device = prepare_device(config, world.device_name(options.device));

  const auto network = build_network(config, device);
  WeightsOptions weights = options.weights;
  weights.bn_mode = config.network.bn_mode;
  io::Checkpoint checkpoint = io::load_checkpoint(options.checkpoint);
  const io::SnapshotInfo info = io::snapshot_info(checkpoint);
  std::vector<std::string> notes = load_weights(options.checkpoint, std::move(checkpoint), *network, weights);

  const auto task = make_task(config);
  const auto evaluator = task->evaluator(evaluation_options(options, config, world), world, device);
  if (info.config) notes.push_back(config_note(*info.config, given));
  if (info.classes && config.task == "classification") {
    notes.push_back(classes_note(options, *info.classes, evaluator->classes()));
  }
  notes.push_back(evaluator->note());
  if (world.first()) {
    for (const std::string& note : notes) {
      if (!note.empty()) std::printf("%s\n", note.c_str());
    }
    std::printf("%s (%s, %s) on %s, %lld images, %s\n", config.network.arch.c_str(), config.network.bn_mode.c_str(),
                config.network.activation.c_str(), device.str().c_str(), static_cast<long long>(evaluator->images()),
                evaluator->description().c_str());
    std::fflush(stdout);
  }

  std::optional<InterruptGuard> interrupts;  // of several processes, each may end at once
  if (!world.group) interrupts.emplace();
  auto evaluation = evaluator->evaluate(*network, [&] { return !world.group && pending_interrupt() != 0; });
  for (const std::string& text : evaluator->skipped()) std::printf("skipped %s\n", text.c_str());
  if (!evaluation) throw Interrupted(pending_interrupt());
  if (evaluation->not_finite > 0) {
    throw std::runtime_error(options.checkpoint.string() + ": the network's scores are no numbers in " +
                             std::to_string(evaluation->not_finite) + " of " +
                             std::to_string(evaluation->metrics.images) +
                             " images; try \"precision\": \"bf16\" or \"float32\"");
  }
  if (world.first()) {
    print_classes(evaluation->classes);
    std::printf("%s (%lld images)\n", to_text(evaluation->metrics).c_str(),
                static_cast<long long>(evaluation->metrics.images));
    if (options.json) replace_file(*options.json, to_json_text(*evaluation));
  }
  return std::move(*evaluation);
}

}  // namespace

Evaluation validate(const Config& given, const ValidateOptions& options) {
  Config config = given;
  apply(options, config);
  const World world = join_world(choose_device(options.device).type());
  Evaluation evaluation = world.run([&] {
    if (options.json && world.first()) check_replaceable(*options.json);  // the others may not see its folder
    return validate_share(world, given, config, options);
  });
  world.leave();
  return evaluation;
}

}  // namespace iabn::train
