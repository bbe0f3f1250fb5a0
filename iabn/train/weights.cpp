#include "iabn/train/weights.h"

#include <algorithm>
#include <map>

#include <ATen/ATen.h>

#include "iabn/io/checkpoint.h"
#include "iabn/io/error.h"
#include "iabn/io/tensors.h"
#include "iabn/models/nearest.h"
#include "iabn/models/network.h"
#include "iabn/models/segmentation_network.h"
#include "iabn/nn/state_dict.h"

namespace iabn::train {
namespace {

constexpr size_t kShown = 10;  // keys of each kind in an error
constexpr const char* kNames =
    "\n  Names must be those of the networks of iabn models (the original package's, such as mod1.conv1.weight): "
    "rename the weights of other libraries";

std::string shape_text(at::IntArrayRef sizes) {
  std::string text = "[";
  for (size_t i = 0; i < sizes.size(); ++i) text += (i == 0 ? "" : ", ") + std::to_string(sizes[i]);
  return text + "]";
}

bool is_counter(const std::string& key) { return key.ends_with("num_batches_tracked"); }

struct Mismatches {
  std::vector<std::string> missing, extra, shapes;
  bool none() const { return missing.empty() && extra.empty() && shapes.empty(); }
};

std::string listed(const char* title, const std::vector<std::string>& lines) {
  if (lines.empty()) return "";
  std::string text = "\n  " + std::string(title) + " (" + std::to_string(lines.size()) + "):";
  for (size_t i = 0; i < std::min(lines.size(), kShown); ++i) text += "\n    " + lines[i];
  if (lines.size() > kShown) text += "\n    ...";
  return text;
}

Mismatches compare(const nn::NamedTensors& network, const std::map<std::string, at::Tensor>& file) {
  std::vector<std::string> network_keys, file_keys;
  for (const auto& item : network) network_keys.push_back(item.first);
  for (const auto& item : file) file_keys.push_back(item.first);
  Mismatches result;
  for (const auto& [key, tensor] : network) {
    const auto found = file.find(key);
    if (found == file.end()) {
      if (!is_counter(key)) result.missing.push_back(key + did_you_mean(key, file_keys));
    } else if (found->second.sizes() != tensor.sizes()) {
      result.shapes.push_back(key + " is " + shape_text(found->second.sizes()) + " in the file, " +
                              shape_text(tensor.sizes()) + " in the network");
    }
  }
  std::sort(network_keys.begin(), network_keys.end());
  for (const std::string& key : file_keys) {
    if (std::binary_search(network_keys.begin(), network_keys.end(), key)) continue;
    result.extra.push_back(key + did_you_mean(key, network_keys));
  }
  return result;
}

// The averaged weights of one of our snapshots, in place of its state_dict.
bool use_averages(io::Value& root) {
  io::Value* own = root.find("iabn");
  if (own == nullptr || own->find("averages") == nullptr) return false;
  io::Value averages = *own->find("averages");
  root.as<io::Dict>()->set("state_dict", std::move(averages));
  return true;
}

bool is_classifier(const std::string& key) { return key.starts_with("classifier.") || key.starts_with("fc."); }

// load_weights of a file that has been read.
std::vector<std::string> fill(const std::filesystem::path& path, io::Checkpoint checkpoint, models::Network& network,
                              const WeightsOptions& options, bool without_classifier) {
  const at::NoGradGuard no_grad;
  std::vector<std::string> notes;
  for (const std::string& record : checkpoint.suspicious_records) {
    notes.push_back("warning: the checksum of " + record + " does not match: damaged, or written without checksums");
  }
  const io::SnapshotInfo info = io::snapshot_info(checkpoint);
  if (info.version) notes.push_back("snapshot of iabn " + *info.version);
  if (options.averages && use_averages(checkpoint.root)) notes.emplace_back("averaged weights (ema_decay)");

  const io::Gamma gamma = options.gamma ? *options.gamma : info.gamma.value_or(io::original_gamma(options.bn_mode));
  const char* why = options.gamma ? "as asked for"
                    : info.gamma
                        ? "as the file says"
                        : "the file does not say, so the given configuration's bn_mode decides; --gamma overrides";
  std::string note =
      std::string(gamma == io::Gamma::kLegacy ? "legacy gamma, |weight| + eps (" : "signed gamma (") + why;
  if (gamma != options.network_gamma) {
    io::convert_gamma(checkpoint.root, gamma, options.network_gamma, options.eps);
    note += std::string("), read as ") + io::name_of(options.network_gamma) + " gamma";
  } else {
    note += ")";
  }
  notes.push_back(std::move(note));

  std::map<std::string, at::Tensor> file;
  std::string left_out;
  for (const auto& [key, tensor] : io::state_dict(checkpoint.root).tensors) {
    if (without_classifier && is_classifier(key)) {
      left_out += (left_out.empty() ? "" : ", ") + key;
    } else {
      file[key] = io::to_at(tensor);
    }
  }
  if (!left_out.empty()) notes.push_back("left out of " + path.string() + ": " + left_out);
  const nn::NamedTensors weights = nn::state_dict(network);
  const Mismatches mismatches = compare(weights, file);
  if (!mismatches.none()) {
    throw WeightsError(path.string() +
                       " does not fit the network:" + listed("missing in the file", mismatches.missing) +
                       listed("unknown to the network", mismatches.extra) + listed("other shapes", mismatches.shapes) +
                       (mismatches.missing.empty() ? "" : kNames));
  }
  for (const auto& [key, tensor] : weights) {
    if (const auto found = file.find(key); found != file.end()) tensor.detach().copy_(found->second);
  }
  return notes;
}

std::vector<std::string> load(const std::filesystem::path& path, io::Checkpoint checkpoint, models::Network& network,
                              const WeightsOptions& options, bool without_classifier) {
  try {
    return fill(path, std::move(checkpoint), network, options, without_classifier);
  } catch (const io::CheckpointError& error) {
    throw WeightsError(path.string() + ": " + error.what());
  }
}

}  // namespace

std::vector<std::string> load_weights(const std::filesystem::path& path, models::Network& network,
                                      const WeightsOptions& options) {
  return load_weights(path, io::load_checkpoint(path), network, options);
}

std::vector<std::string> load_weights(const std::filesystem::path& path, io::Checkpoint checkpoint,
                                      models::Network& network, const WeightsOptions& options) {
  return load(path, std::move(checkpoint), network, options, /*without_classifier=*/false);
}

std::vector<std::string> load_body(const std::filesystem::path& path, models::Network& network, const Config& config,
                                   std::optional<io::Gamma> gamma) {
  auto* segmentation = dynamic_cast<models::SegmentationNetwork*>(&network);
  if (segmentation == nullptr) throw std::invalid_argument("body " + path.string() + ": only segmentation has a body");
  WeightsOptions options;
  options.gamma = gamma;
  options.bn_mode = config.network.bn_mode;
  options.network_gamma = *io::gamma_from_name(config.network.gamma);
  auto notes = load(path, io::load_checkpoint(path), segmentation->body(), options, /*without_classifier=*/true);
  for (std::string& note : notes) note = "body: " + note;
  return notes;
}

}  // namespace iabn::train
