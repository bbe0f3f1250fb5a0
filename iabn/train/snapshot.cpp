#include "iabn/train/snapshot.h"

#include <algorithm>
#include <set>

#include <ATen/ATen.h>
#include <nlohmann/json.hpp>

#include "iabn/io/checkpoint.h"
#include "iabn/io/error.h"
#include "iabn/io/pytorch.h"
#include "iabn/io/tensors.h"
#include "iabn/models/network.h"
#include "iabn/nn/state_dict.h"
#include "iabn/train/class_names.h"
#include "iabn/train/parse_json.h"
#include "iabn/train/step.h"
#include "iabn/train/version.h"

namespace iabn::train {
namespace {

using io::Dict;
using io::Value;

constexpr int64_t kFormat = 2;  // of what is under "iabn"; raise it when an older program could not read it

// A handle; it shares its state with LibTorch's own.
at::Generator generator(c10::Device device) { return at::globalContext().defaultGenerator(device); }

// As torch.optim's state_dict(): {"state": {index: {name: tensor}}, "param_groups": [{..., "params": [indices]}]}.
Dict optimizer_dict(const OptimizerConfig& config, const TrainOptimizer& optimizer) {
  Dict states;
  const auto state = optimizer.state();
  for (size_t i = 0; i < state.size(); ++i) {
    Dict own;
    for (const auto& [name, tensor] : state[i]) own.set(name, io::from_at(tensor));
    states.items.push_back({static_cast<int64_t>(i), std::move(own)});
  }
  io::List groups;
  const auto members = optimizer.groups();
  for (size_t g = 0; g < members.size(); ++g) {
    Dict group;
    group.set("lr", optimizer.learning_rate(g));
    if (config.type == "SGD") {
      group.set("momentum", config.momentum);
      group.set("dampening", 0.0);
      group.set("nesterov", config.nesterov);
    } else {
      group.set("betas", io::Tuple{{Value(0.9), Value(0.999)}});
      group.set("eps", 1e-8);
    }
    group.set("weight_decay", config.weight_decay);
    io::List indices;
    for (const int64_t i : members[g]) indices.items.emplace_back(i);
    group.set("params", std::move(indices));
    groups.items.emplace_back(std::move(group));
  }
  Dict result;
  result.set("state", std::move(states));
  result.set("param_groups", std::move(groups));
  return result;
}

// A loaded snapshot. Every accessor throws SnapshotError that names the file and the key.
class Reader {
 public:
  explicit Reader(const std::filesystem::path& path) : path_(path) {
    if (!std::filesystem::is_regular_file(path)) fail("there is no such file");
    try {
      file_ = io::load_checkpoint(path);
    } catch (const io::CheckpointError& error) {
      throw SnapshotError(error.what());
    }
    if (!file_.suspicious_records.empty()) {
      fail("is damaged: the checksum of " + file_.suspicious_records.front() + " does not match");
    }
    own_ = file_.root.find("iabn");
    if (own_ == nullptr) fail("is not a snapshot of iabn: it can give weights, but not continue a run");
    if (number("format") != kFormat) {
      fail("has format " + std::to_string(number("format")) + ", this program reads " + std::to_string(kFormat));
    }
  }

  [[noreturn]] void fail(const std::string& text) const { throw SnapshotError(path_.string() + ": " + text); }

  /// Of the part under "iabn".
  int64_t number(const char* key) const { return *get<int64_t>(*own_, key); }
  double real(const char* key) const { return *get<double>(*own_, key); }
  const std::string& text(const char* key) const { return *get<std::string>(*own_, key); }
  at::Tensor tensor(const char* key, at::ScalarType dtype, int64_t numbers = -1) const {
    const at::Tensor tensor = io::to_at(*get<io::Tensor>(*own_, key));
    if (tensor.scalar_type() != dtype || tensor.dim() != 1 || (numbers >= 0 && tensor.numel() != numbers)) {
      fail(std::string("is damaged: ") + key + " has another shape or dtype");
    }
    return tensor.clone();
  }

  /// The state of LibTorch's generator of `device`.
  void restore_generator(const char* key, c10::Device device) const {
    try {
      generator(device).set_state(tensor(key, at::kByte));
    } catch (const c10::Error& error) {
      fail(std::string("is damaged: ") + key + ": " + error.what_without_backtrace());
    }
  }
  bool has(const char* key) const { return own_->find(key) != nullptr; }
  const Value& own() const { return *own_; }
  const Value& root() const { return file_.root; }

  /// Copies the tensors of a dict into `targets`, whose names and shapes it must have.
  void copy_all(const Value& parent, const char* key, const nn::NamedTensors& targets,
                const std::string& prefix) const {
    const auto* dict = get<Dict>(parent, key);
    if (dict->items.size() != targets.size()) {
      fail(std::string(key) + " holds " + std::to_string(dict->items.size()) + " tensors, the network has " +
           std::to_string(targets.size()));
    }
    for (const auto& [name, target] : targets) {
      const at::Tensor source = io::to_at(*get<io::Tensor>(*find(parent, key), (prefix + name).c_str()));
      if (source.sizes() != target.sizes()) fail(prefix + name + " has another shape than in the network");
      target.detach().copy_(source);
    }
  }

  RunState run_state() const {
    RunState state;
    state.epoch = *get<int64_t>(root(), "epoch");
    state.best_score = *get<double>(root(), "best_prec1");
    state.step = number("step");
    state.train_images = number("train_images");
    state.epoch_seconds = real("epoch_seconds");
    if (state.epoch < 0 || state.step < 0) fail("is damaged: epoch or step is negative");
    return state;
  }

  std::vector<TrainOptimizer::NamedTensors> optimizer_state() const {
    std::vector<TrainOptimizer::NamedTensors> result;
    const Value* optimizer = find(root(), "optimizer");
    for (const io::Item& item : get<Dict>(*optimizer, "state")->items) {
      const auto* index = std::get_if<int64_t>(&item.key);
      const auto* names = item.value.as<Dict>();
      if (index == nullptr || *index != static_cast<int64_t>(result.size()) || names == nullptr) {
        fail("optimizer.state is damaged");
      }
      auto& own = result.emplace_back();
      for (const io::Item& named : names->items) {
        const auto* tensor = named.value.as<io::Tensor>();
        if (tensor == nullptr) fail("optimizer.state is damaged");
        own.emplace_back(io::text_of(named.key), io::to_at(*tensor));
      }
    }
    return result;
  }

 private:
  const Value* find(const Value& parent, const char* key) const {
    const Value* value = parent.find(key);
    if (value == nullptr) fail(std::string("is damaged: it lacks ") + key);
    return value;
  }

  template <class T>
  const T* get(const Value& parent, const char* key) const {
    const Value* value = find(parent, key);
    const T* typed = value->as<T>();
    if (typed == nullptr) fail(std::string("is damaged: ") + key + " is of type " + value->type_name());
    return typed;
  }

  std::filesystem::path path_;
  io::Checkpoint file_;
  const Value* own_ = nullptr;
};

void check_config(const Reader& reader, const Config& config, bool any, std::vector<std::string>* passed_over) {
  Config found;
  try {
    found = parse_config(parse_json(reader.text("config")));
  } catch (const SnapshotError&) {
    throw;
  } catch (const std::exception& error) {
    if (any) {
      if (passed_over != nullptr) *passed_over = {std::string("the snapshot's cannot be read: ") + error.what()};
      return;
    }
    reader.fail(std::string("holds a configuration that this version cannot read: ") + error.what());
  }
  auto differences = config_differences(to_json(found), to_json(config));
  if (!differences.empty() && !any) reader.fail("belongs to another configuration: " + joined_differences(differences));
  if (passed_over != nullptr) *passed_over = std::move(differences);
}

// Snapshots of older versions name no classes.
void check_classes(const Reader& reader, const std::string& classes, bool any, std::vector<std::string>* passed_over) {
  if (classes.empty() || !reader.has("classes")) return;
  const std::string differences = joined_differences(class_differences(reader.text("classes"), classes));
  if (differences.empty()) return;
  if (!any) reader.fail(other_classes(differences, "--any-config"));
  if (passed_over != nullptr) passed_over->push_back(differences);
}

}  // namespace

std::string joined_differences(const std::vector<std::string>& texts) {
  constexpr size_t kShown = 8;
  std::string line;
  for (size_t i = 0; i < std::min(texts.size(), kShown); ++i) line += (i == 0 ? "" : "; ") + texts[i];
  if (texts.size() > kShown) line += "; and " + std::to_string(texts.size() - kShown) + " more";
  return line;
}

void check_same_data(const std::filesystem::path& path, const RunState& state, int64_t train_images, int64_t batches) {
  if (state.train_images != train_images) {
    throw SnapshotError(path.string() + ": was trained on " + std::to_string(state.train_images) +
                        " images, the folder holds " + std::to_string(train_images));
  }
  if (state.step > batches) {
    throw SnapshotError(path.string() + ": is damaged: step " + std::to_string(state.step) + " of an epoch of " +
                        std::to_string(batches));
  }
}

std::vector<std::string> config_differences(const nlohmann::json& there, const nlohmann::json& here) {
  const nlohmann::json a = there.flatten(), b = here.flatten();
  std::set<std::string> keys;
  for (const auto& item : a.items()) keys.insert(item.key());
  for (const auto& item : b.items()) keys.insert(item.key());
  keys.erase("/optimizer/schedule/epochs");
  keys.erase("/network/sync_exchange");  // the same numbers to rounding
  const auto text = [](const nlohmann::json& json, const std::string& key) {
    return json.contains(key) ? json.at(key).dump() : std::string("nothing");
  };
  std::vector<std::string> result;
  for (const std::string& key : keys) {
    if (text(a, key) == text(b, key)) continue;
    std::string name = key.substr(1);
    std::replace(name.begin(), name.end(), '/', '.');
    result.push_back(name + " is " + text(a, key) + " there, " + text(b, key) + " here");
  }
  std::stable_partition(result.begin(), result.end(), [](const auto& line) { return line.starts_with("network."); });
  return result;
}

std::string snapshot_bytes(const SnapshotParts& parts, const RunState& state, const MeterSums& metrics) {
  Dict own;
  own.set("format", kFormat);
  own.set("version", std::string(kVersion));
  own.set("config", to_json(parts.config).dump());
  own.set("gamma", parts.config.network.gamma);
  if (!parts.classes.empty()) own.set("classes", parts.classes);
  own.set("step", state.step);
  own.set("train_images", state.train_images);
  own.set("epoch_seconds", state.epoch_seconds);
  own.set("metric_sums", io::from_at(metrics.sums));
  own.set("metric_images", metrics.images);
  own.set("rng_cpu", io::from_at(generator(c10::Device(c10::kCPU)).get_state()));
  if (parts.device.is_cuda()) own.set("rng_cuda", io::from_at(generator(parts.device).get_state()));
  if (const LossScaler* scaler = parts.step.scaler()) own.set("loss_scale", io::from_at(scaler->state()));
  if (const AveragedWeights* averages = parts.step.averages()) {
    own.set("averages", io::to_state_dict(averages->named(), "module."));
  }
  Dict root;
  root.set("epoch", state.epoch);
  root.set("arch", parts.config.network.arch);
  root.set("state_dict", io::to_state_dict(nn::state_dict(parts.network), "module."));
  root.set("best_prec1", state.best_score);
  root.set("optimizer", optimizer_dict(parts.config.optimizer, parts.step.optimizer()));
  root.set("iabn", std::move(own));
  return io::pytorch_bytes(Value(std::move(root)));
}

RunState load_snapshot(const std::filesystem::path& path, const SnapshotParts& parts, bool any_config,
                       std::vector<std::string>* differences) {
  const at::NoGradGuard no_grad;
  const Reader reader(path);
  check_config(reader, parts.config, any_config, differences);
  check_classes(reader, parts.classes, any_config, differences);
  const RunState state = reader.run_state();
  reader.copy_all(reader.root(), "state_dict", nn::state_dict(parts.network), "module.");
  if (AveragedWeights* averages = parts.step.averages()) {
    averages->reset();
    if (reader.has("averages")) reader.copy_all(reader.own(), "averages", averages->named(), "module.");
  }
  try {
    parts.step.optimizer().load_state(reader.optimizer_state());
  } catch (const std::invalid_argument& error) {
    reader.fail(error.what());
  }
  if (LossScaler* scaler = parts.step.scaler(); scaler != nullptr && reader.has("loss_scale")) {
    scaler->load_state(reader.tensor("loss_scale", at::kFloat, 2));
  }
  parts.metrics.restore(
      {reader.tensor("metric_sums", at::kDouble, parts.metrics.numbers()), reader.number("metric_images")});
  reader.restore_generator("rng_cpu", c10::Device(c10::kCPU));
  // A run that began on the CPU has no state of the GPU; then the seed's stays, as at its start.
  if (parts.device.is_cuda() && reader.has("rng_cuda")) reader.restore_generator("rng_cuda", parts.device);
  return state;
}

}  // namespace iabn::train
