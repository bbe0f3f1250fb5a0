#pragma once

// From a configuration to a network and its data.

#include <filesystem>
#include <memory>
#include <string>

#include <c10/core/Device.h>

#include "iabn/data/dataset.h"
#include "iabn/data/loader.h"
#include "iabn/models/network.h"
#include "iabn/train/config.h"
#include "iabn/train/distributed.h"

namespace iabn::train {

/// Seeds LibTorch's generators with config.seed, builds the network, draws its weights on the CPU (so that they do not
/// depend on the device) and moves it.
std::shared_ptr<models::Network> build_network(const Config& config, c10::Device device);

/// choose_device(name), and LibTorch set as the configuration wants: with "deterministic" algorithms that give the same
/// bits each time, else cuDNN may time its algorithms and keep the fastest. To be called before anything runs there.
/// Throws what choose_device throws, and ConfigError for cuda_graph without a GPU.
c10::Device prepare_device(const Config& config, const std::string& name);

/// One split of a folder. Throws data::DataError, and ConfigError where network.classes is another number than the
/// data's.
std::shared_ptr<const data::Dataset> open_checked_dataset(const Config& config, const std::filesystem::path& root,
                                                          data::Split split);

/// Of training, with optimizer.batch_size divided by the processes. Throws ConfigError where that leaves a rest.
data::LoaderOptions train_loader_options(const Config& config, const World& world, c10::Device device, int64_t workers,
                                         bool skip_corrupt);

}  // namespace iabn::train
