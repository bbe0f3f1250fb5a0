#pragma once

// Weights of a checkpoint file into a network.

#include <filesystem>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "iabn/io/gamma.h"
#include "iabn/train/config.h"

namespace iabn::io {
struct Checkpoint;
}
namespace iabn::models {
class Network;
}

namespace iabn::train {

/// Names the file and what does not fit.
class WeightsError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

struct WeightsOptions {
  /// How the file's norm weights count; nullopt: what the file says, else legacy where `bn_mode` (of the configuration
  /// at hand, taken for that of the training) is inplace or sync, else signed.
  std::optional<io::Gamma> gamma;
  std::string bn_mode = "standard";
  double eps = io::kDefaultEps;                  // of the norms, for legacy weights
  bool averages = true;                          // of one of our snapshots with averaged weights: take these
  io::Gamma network_gamma = io::Gamma::kSigned;  // how the network counts its norms' weights
};

/// Fills parameters and buffers. num_batches_tracked may be missing. Returns what it did, a line each ("legacy gamma:
/// ..."). Throws io::CheckpointError for the file and WeightsError where keys or shapes differ: all of them are listed,
/// with the nearest name of the other side.
std::vector<std::string> load_weights(const std::filesystem::path& path, models::Network& network,
                                      const WeightsOptions& options);

/// The same of a file that io::load_checkpoint has read; `path` is for messages.
std::vector<std::string> load_weights(const std::filesystem::path& path, io::Checkpoint checkpoint,
                                      models::Network& network, const WeightsOptions& options);

/// load_weights of the body of the configuration's network, a models::SegmentationNetwork, from the file of a
/// classification network: what is under classifier or fc there is left out. gamma: see WeightsOptions. Each note
/// begins with "body: ". Throws std::invalid_argument for another network.
std::vector<std::string> load_body(const std::filesystem::path& path, models::Network& network, const Config& config,
                                   std::optional<io::Gamma> gamma);

}  // namespace iabn::train
