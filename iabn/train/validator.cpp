#include "iabn/train/validator.h"

#include <algorithm>
#include <cstdio>

#include <ATen/ATen.h>

#include "iabn/data/loader.h"
#include "iabn/models/network.h"
#include "iabn/train/build.h"
#include "iabn/train/device.h"
#include "iabn/train/device_loader.h"
#include "iabn/train/distributed.h"
#include "iabn/train/evaluation.h"
#include "iabn/train/interrupt.h"
#include "iabn/train/precision.h"

namespace iabn::train {

Metrics validate(Config config, const ValidateOptions& options) {
  config.cuda_graph = false;  // of training
  const World world = join_world(choose_device(options.device).type());
  const c10::Device device = prepare_device(config, world.device_name(options.device));
  if (options.scale) config.input.scale_val = *options.scale;
  if (options.crop) config.input.crop_val = *options.crop;
  config.input.ten_crops_val = options.ten_crops;
  config.network.gamma = "signed";  // legacy weights are read as such
  const int64_t crops = options.ten_crops ? 10 : 1;
  const int64_t batch =
      options.batch_size.value_or(std::max<int64_t>(1, config.optimizer.batch_size / world.size / crops));

  const auto network = build_network(config, device);
  WeightsOptions weights = options.weights;
  weights.bn_mode = config.network.bn_mode;
  for (const std::string& note : load_weights(options.checkpoint, *network, weights)) {
    if (world.first()) std::printf("%s\n", note.c_str());
  }

  const auto dataset = open_checked_dataset(config, options.data, data::Split::val);
  auto loader_options = data::LoaderOptions::for_validation(batch, options.workers);
  loader_options.channels_last = config.channels_last;
  loader_options.pinned = device.is_cuda();
  loader_options.skip_corrupt = options.skip_corrupt;
  loader_options.rank = world.rank;
  loader_options.world_size = world.size;
  data::Loader loader(data::image_samples(dataset, config.input, data::Split::val), loader_options);
  DeviceLoader batches(loader, device);
  if (world.first()) {
    std::printf("%s (%s, %s) on %s, %lld images, scale %lld, crop %lld%s\n", config.network.arch.c_str(),
                config.network.bn_mode.c_str(), config.network.activation.c_str(), device.str().c_str(),
                static_cast<long long>(dataset->size()), static_cast<long long>(config.input.scale_val),
                static_cast<long long>(config.input.crop_val), options.ten_crops ? ", ten crops" : "");
    std::fflush(stdout);
  }

  std::optional<InterruptGuard> interrupts;  // of several processes, each may end at once
  if (!world.group) interrupts.emplace();
  const auto metrics = evaluate(
      *network, batches, device, precision_dtype(config.precision), crops,
      [&] { return !world.group && pending_interrupt() != 0; }, world.group);
  for (const std::string& text : loader.skipped()) std::printf("skipped %s\n", text.c_str());
  if (!metrics) throw Interrupted(pending_interrupt());
  if (world.first()) {
    std::printf("loss %.4f top1 %.2f %% top5 %.2f %% (%lld images)\n", metrics->loss, metrics->top1, metrics->top5,
                static_cast<long long>(metrics->images));
  }
  return *metrics;
}

}  // namespace iabn::train
