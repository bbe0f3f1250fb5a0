#include "iabn/train/snapshot.h"

#include <set>

#include <ATen/Context.h>
#include <ATen/core/Generator.h>
#include <torch/nn/module.h>
#include <torch/optim/optimizer.h>
#include <torch/serialize/input-archive.h>
#include <torch/serialize/output-archive.h>
#include <nlohmann/json.hpp>

#include "iabn/train/version.h"

namespace iabn::train {
namespace {

using torch::serialize::InputArchive;
using torch::serialize::OutputArchive;

constexpr int64_t kFormat = 1;  // of the archive's layout; raise it when an older program could not read it

// A handle; it shares its state with LibTorch's own.
at::Generator generator(c10::Device device) { return at::globalContext().defaultGenerator(device); }

std::string first_line(const std::string& text) { return text.substr(0, text.find('\n')); }

class Reader {
 public:
  Reader(const std::filesystem::path& path, c10::Device device) : path_(path) {
    if (!std::filesystem::is_regular_file(path)) fail("there is no such file");
    guard("is not a complete snapshot (truncated or damaged)", [&] { archive_.load_from(path.string(), device); });
    int64_t format = 0;
    guard("is not a snapshot of iabn", [&] { format = value("format").toInt(); });
    if (format != kFormat) {
      fail("has format " + std::to_string(format) + ", this program reads " + std::to_string(kFormat));
    }
  }

  c10::IValue value(const char* key) {
    c10::IValue result;
    archive_.read(key, result);
    return result;
  }

  bool has(const char* key) {
    c10::IValue ignored;
    return archive_.try_read(key, ignored);
  }

  InputArchive child(const char* key) {
    InputArchive result;
    archive_.read(key, result);
    return result;
  }

  [[noreturn]] void fail(const std::string& text) const { throw SnapshotError(path_.string() + ": " + text); }

  /// Errors of LibTorch inside `body` come out as `text`.
  template <class Body>
  void guard(const std::string& text, Body&& body) const {
    try {
      body();
    } catch (const SnapshotError&) {
      throw;
    } catch (const c10::Error& error) {
      fail(text + ": " + first_line(error.what_without_backtrace()));
    } catch (const std::exception& error) {  // LibTorch's reader has kinds of its own
      fail(text + ": " + first_line(error.what()));
    }
  }

  Config config() {
    Config result;
    guard("holds no configuration", [&] {
      try {
        result = parse_config(nlohmann::json::parse(value("config").toStringRef()));
      } catch (const std::exception& error) {
        fail(std::string("holds a configuration that this version cannot read: ") + error.what());
      }
    });
    return result;
  }

  void check_same(const nlohmann::json& wanted, nlohmann::json found) const {
    if (const auto difference = first_difference(found, wanted)) {
      fail("belongs to another configuration: " + *difference);
    }
  }

 private:
  std::filesystem::path path_;
  InputArchive archive_;
};

}  // namespace

std::optional<std::string> first_difference(const nlohmann::json& snapshot, const nlohmann::json& wanted) {
  const nlohmann::json a = snapshot.flatten(), b = wanted.flatten();
  std::set<std::string> keys;
  for (const auto& item : a.items()) keys.insert(item.key());
  for (const auto& item : b.items()) keys.insert(item.key());
  keys.erase("/optimizer/schedule/epochs");
  const auto text = [](const nlohmann::json& json, const std::string& key) {
    return json.contains(key) ? json.at(key).dump() : std::string("nothing");
  };
  // The network first: where it differs, the rest is of little interest.
  std::optional<std::string> result;
  for (const std::string& key : keys) {
    if (text(a, key) == text(b, key)) continue;
    std::string name = key.substr(1);
    for (char& c : name) c = c == '/' ? '.' : c;
    const bool network = name.rfind("network.", 0) == 0;
    if (result && !network) continue;
    result = name + " is " + text(a, key) + " there, " + text(b, key) + " here";
    if (network) break;
  }
  return result;
}

std::string snapshot_bytes(const Config& config, const RunState& state, const MetricSums& metrics,
                           const torch::nn::Module& network, const torch::optim::Optimizer& optimizer,
                           c10::Device device) {
  OutputArchive archive, network_archive, optimizer_archive;
  archive.write("format", c10::IValue(kFormat));
  archive.write("version", c10::IValue(std::string(kVersion)));
  archive.write("config", c10::IValue(to_json(config).dump()));
  archive.write("gamma", c10::IValue(config.network.gamma));
  archive.write("epoch", c10::IValue(state.epoch));
  archive.write("step", c10::IValue(state.step));
  archive.write("train_images", c10::IValue(state.train_images));
  archive.write("best_top1", c10::IValue(state.best_top1));
  archive.write("epoch_seconds", c10::IValue(state.epoch_seconds));
  archive.write("metric_sums", c10::IValue(metrics.sums()));
  archive.write("metric_images", c10::IValue(metrics.images()));
  archive.write("rng_cpu", c10::IValue(generator(c10::Device(c10::kCPU)).get_state()));
  if (device.is_cuda()) {
    archive.write("rng_cuda", c10::IValue(generator(device).get_state()));
  }
  network.save(network_archive);
  archive.write("network", network_archive);
  optimizer.save(optimizer_archive);
  archive.write("optimizer", optimizer_archive);
  std::string bytes;
  archive.save_to([&bytes](const void* data, size_t size) {
    bytes.append(static_cast<const char*>(data), size);
    return size;
  });
  return bytes;
}

RunState load_snapshot(const std::filesystem::path& path, const Config& config, MetricSums& metrics,
                       torch::nn::Module& network, torch::optim::Optimizer& optimizer, c10::Device device) {
  Reader reader(path, device);
  reader.check_same(to_json(config), to_json(reader.config()));
  RunState state;
  reader.guard("is damaged", [&] {
    state.epoch = reader.value("epoch").toInt();
    state.step = reader.value("step").toInt();
    state.train_images = reader.value("train_images").toInt();
    state.best_top1 = reader.value("best_top1").toDouble();
    state.epoch_seconds = reader.value("epoch_seconds").toDouble();
    metrics.restore(reader.value("metric_sums").toTensor(), reader.value("metric_images").toInt());
    InputArchive weights = reader.child("network");
    network.load(weights);
    InputArchive moments = reader.child("optimizer");
    optimizer.load(moments);
    generator(c10::Device(c10::kCPU)).set_state(reader.value("rng_cpu").toTensor().cpu());
    // A run that began on the CPU has no state of the GPU; then the seed's stays, as at its start.
    if (device.is_cuda() && reader.has("rng_cuda")) {
      generator(device).set_state(reader.value("rng_cuda").toTensor().cpu());
    }
  });
  return state;
}

}  // namespace iabn::train
