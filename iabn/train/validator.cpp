#include "iabn/train/validator.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <stdexcept>
#include <utility>

#include "iabn/models/network.h"
#include "iabn/train/atomic_file.h"
#include "iabn/train/build.h"
#include "iabn/train/device.h"
#include "iabn/train/distributed.h"
#include "iabn/train/interrupt.h"
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

Evaluation validate_share(const World& world, const Config& config, const ValidateOptions& options) {
  const c10::Device device = prepare_device(config, world.device_name(options.device));

  const auto network = build_network(config, device);
  WeightsOptions weights = options.weights;
  weights.bn_mode = config.network.bn_mode;
  for (const std::string& note : load_weights(options.checkpoint, *network, weights)) {
    if (world.first()) std::printf("%s\n", note.c_str());
  }

  const auto task = make_task(config);
  const auto evaluator = task->evaluator(evaluation_options(options, config, world), world, device);
  if (world.first()) {
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

Evaluation validate(Config config, const ValidateOptions& options) {
  apply(options, config);
  const World world = join_world(choose_device(options.device).type());
  Evaluation evaluation = world.run([&] {
    if (options.json && world.first()) check_replaceable(*options.json);  // the others may not see its folder
    return validate_share(world, config, options);
  });
  world.leave();
  return evaluation;
}

}  // namespace iabn::train
