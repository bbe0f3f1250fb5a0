#include "iabn/train/build.h"

#include <cstdlib>

#include <ATen/Context.h>

#include "iabn/models/registry.h"
#include "iabn/models/segmentation_network.h"
#include "iabn/models/weight_init.h"
#include "iabn/nn/sync.h"
#include "iabn/train/device.h"

namespace iabn::train {
namespace {

models::SegmentationOptions segmentation_options(const Config& config, const models::NetworkOptions& body) {
  const SegmentationConfig& segmentation = config.segmentation;
  models::SegmentationOptions options;
  options.arch = config.network.arch;
  options.body = body;
  options.classes = config.network.classes;
  options.head_channels = segmentation.head_channels;
  options.hidden_channels = segmentation.hidden_channels;
  options.dilations = segmentation.dilations;
  if (const auto& size = segmentation.pooling_size; !size.empty()) options.pooling_size = {{size[0], size[1]}};
  return options;
}

}  // namespace

std::shared_ptr<models::Network> build_network(const Config& config, c10::Device device) {
  at::manual_seed(static_cast<uint64_t>(config.seed));
  const NetworkConfig& network_config = config.network;
  models::NetworkOptions options;
  options.norm_mode = network_config.bn_mode;
  options.activation = network_config.activation;
  options.activation_param = network_config.activation_param;
  options.gamma = network_config.gamma == "legacy" ? nn::GammaMode::kLegacy : nn::GammaMode::kSigned;
  options.classes = network_config.classes;
  options.input_channels = config.input.channels;
  options.width = network_config.width;
  const bool wider = models::is_wider(network_config.arch);  // see check_architecture_options in config.cpp
  options.input_3x3 = network_config.input_3x3 && !wider;
  if (!wider || std::holds_alternative<bool>(network_config.dilation)) options.dilation = network_config.dilation;
  std::shared_ptr<models::Network> network;
  if (config.task == "segmentation") {
    network = std::make_shared<models::SegmentationNetwork>(segmentation_options(config, options));
  } else {
    network = models::make_network(network_config.arch, options);
  }
  models::init_weights(*network, {.method = network_config.weight_init,
                                  .gain_multiplier = network_config.weight_gain_multiplier,
                                  .activation = network_config.activation,
                                  .activation_param = network_config.activation_param});
  nn::name_sync_layers(*network);
  network->to(device);
  if (config.channels_last) {
    const torch::NoGradGuard no_grad;
    for (torch::Tensor& parameter : network->parameters()) {
      if (parameter.dim() == 4) parameter.set_data(parameter.contiguous(at::MemoryFormat::ChannelsLast));
    }
  }
  return network;
}

std::shared_ptr<const data::Dataset> open_checked_dataset(const Config& config, const std::filesystem::path& root,
                                                          data::Split split) {
  auto dataset = data::open_dataset(root, split, config.input);
  const auto classes = static_cast<int64_t>(dataset->classes().size());
  if (classes != config.network.classes) {
    throw ConfigError("network.classes: is " + std::to_string(config.network.classes) + ", but " + root.string() +
                      " has " + std::to_string(classes) + " classes");
  }
  return dataset;
}

data::LoaderOptions train_loader_options(const Config& config, const World& world, c10::Device device, int64_t workers,
                                         bool skip_corrupt) {
  const int64_t batch = config.optimizer.batch_size / world.size;
  if (batch * world.size != config.optimizer.batch_size || batch % config.optimizer.accumulation_steps != 0) {
    throw ConfigError("optimizer.batch_size: " + std::to_string(config.optimizer.batch_size) +
                      " images of the whole job cannot be shared equally by " + std::to_string(world.size) +
                      " processes in accumulation_steps = " + std::to_string(config.optimizer.accumulation_steps) +
                      " parts; choose a multiple of " +
                      std::to_string(world.size * config.optimizer.accumulation_steps));
  }
  data::LoaderOptions loader;
  loader.batch_size = batch;
  loader.workers = workers;
  loader.skip_corrupt = skip_corrupt;
  loader.seed = static_cast<uint64_t>(config.seed);
  loader.channels_last = config.channels_last;
  loader.pinned = device.is_cuda();
  loader.rank = world.rank;
  loader.world_size = world.size;
  return loader;
}

c10::Device prepare_device(const Config& config, const std::string& name) {
  const c10::Device device = choose_device(name);
  if (config.cuda_graph && !device.is_cuda()) {
    throw ConfigError("cuda_graph: needs a GPU, and the device is " + device.str() + "; set it to false");
  }
  at::Context& context = at::globalContext();
  context.setDeterministicCuDNN(config.deterministic);
  context.setBenchmarkCuDNN(!config.deterministic);
  context.setDeterministicAlgorithms(config.deterministic, /*warn_only=*/false);
  if (config.deterministic) ::setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8", /*overwrite=*/0);
  return device;
}

}  // namespace iabn::train
