// iabn convert: reads a checkpoint of any known kind, shows it, and writes it as PyTorch's or safetensors' file.

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "cli/checkpoint_listing.h"
#include "cli/checks.h"
#include "cli/commands.h"
#include "iabn/io/checkpoint.h"
#include "iabn/io/error.h"
#include "iabn/io/md5.h"
#include "iabn/io/pytorch.h"
#include "iabn/io/safetensors.h"
#include "iabn/io/text.h"
#include "iabn/models/nearest.h"
#include "iabn/train/atomic_file.h"
#include "iabn/train/config.h"
#include "iabn/train/parse_json.h"
#include "iabn/train/version.h"

namespace iabn::cli {
namespace {

namespace fs = std::filesystem;

struct Arguments {
  std::string input, output, format, gamma, to_gamma, config;
  double eps = io::kDefaultEps;
  bool list = false, only_weights = false, force = false;
};

// How the input's norm weights are meant, and who says so.
struct InputGamma {
  std::optional<io::Gamma> gamma;
  std::string source;
};

std::string output_format(const Arguments& arguments) {
  if (!arguments.format.empty()) return arguments.format;
  const std::string extension = fs::path(arguments.output).extension();
  if (extension == ".safetensors") return "safetensors";
  for (const char* known : {".pt", ".pth", ".tar", ".th", ".bin", ".ckpt"}) {
    if (extension == known) return "pytorch";
  }
  throw std::invalid_argument("cannot tell from its name which format " + arguments.output +
                              " is to have: call it .pth or .safetensors, or give --format");
}

io::Gamma gamma_of_config(const std::string& path) {
  try {
    std::ifstream file(path);
    if (!file) throw train::ConfigError("cannot be read");
    const auto config = train::parse_json(file);
    if (!config.is_object()) throw train::ConfigError("is not a JSON object");
    const auto network = config.value("network", nlohmann::json::object());
    return io::original_gamma(network.value("bn_mode", "standard"));
  } catch (const std::exception& error) {
    throw train::ConfigError("--config " + path + ": " + error.what());
  }
}

InputGamma input_gamma(const Arguments& arguments, const io::Checkpoint& checkpoint,
                       const io::PublishedModel* published) {
  if (!arguments.gamma.empty()) return {io::gamma_from_name(arguments.gamma), "--gamma"};
  if (const auto gamma = snapshot_info(checkpoint).gamma) return {gamma, "the file"};
  if (!arguments.config.empty()) return {gamma_of_config(arguments.config), "--config"};
  if (published != nullptr) return {published->gamma(), "its md5 sum"};
  return {};
}

io::SafetensorsFile as_safetensors(const io::Checkpoint& checkpoint, io::StateDict weights,
                                   const std::optional<io::Gamma>& gamma) {
  io::SafetensorsFile file;
  file.tensors = std::move(weights.tensors);
  file.metadata = checkpoint.metadata;
  const auto set = [&](const std::string& key, const std::string& text) {
    std::erase_if(file.metadata, [&](const auto& item) { return item.first == key; });
    file.metadata.emplace_back(key, text);
  };
  const io::SnapshotInfo info = snapshot_info(checkpoint);
  set("format", "pt");  // what other readers look for
  if (gamma) set("iabn.gamma", name_of(*gamma));
  if (info.config) set("iabn.config", *info.config);
  if (info.version) set("iabn.version", *info.version);
  if (info.classes) set("iabn.classes", *info.classes);
  return file;
}

// Makes a PyTorch tree say its gamma mode; false where it has no place for it.
bool note_gamma(io::Value& root, io::Gamma gamma) {
  io::Dict* dict = root.as<io::Dict>();
  if (dict == nullptr) return false;
  if (const io::Value* ours = dict->find("iabn"); ours == nullptr || !ours->is<io::Dict>()) {
    const io::Value* inner = dict->find("state_dict");
    if (inner == nullptr || !inner->is<io::Dict>()) return false;
    dict->set("iabn", io::Dict());
  }
  dict->find("iabn")->as<io::Dict>()->set("gamma", name_of(gamma));
  return true;
}

// The state dict alone, as torch.save(model.state_dict()) would hold it.
io::Value bare(const io::StateDict& weights) {
  io::Dict dict;
  dict.ordered = true;
  for (const auto& [key, tensor] : weights.tensors) dict.items.push_back({key, tensor});
  return dict;
}

void check_arguments(const Arguments& arguments) {
  if (arguments.output.empty() != arguments.list) {
    throw std::invalid_argument(arguments.list ? "--list excludes OUT: it only shows IN"
                                               : "OUT is required, or --list to show what IN holds");
  }
  if (arguments.list) return;
  output_format(arguments);
  if (!arguments.force && fs::exists(arguments.output)) {
    throw std::invalid_argument(arguments.output + " exists; --force replaces it");
  }
  train::check_replaceable(arguments.output);
}

void warn_of_checksums(const Arguments& arguments, const io::Checkpoint& checkpoint) {
  const auto& records = checkpoint.suspicious_records;
  if (records.empty()) return;
  std::cerr << "iabn: warning: " << arguments.input << ": the checksums of " << records.size() << " records are wrong ("
            << io::printable(records.front()) << (records.size() > 1 ? ", ..." : "")
            << "): the file is damaged, or was written with checksums off\n";
}

int write(const Arguments& arguments, io::Checkpoint& checkpoint) {
  const io::PublishedModel* published = io::find_published_model(io::md5(checkpoint.file));
  if (published != nullptr) std::cout << arguments.input << ": " << describe_published(published) << "\n";
  const InputGamma from = input_gamma(arguments, checkpoint, published);
  const std::optional<io::Gamma> to = arguments.to_gamma.empty() ? from.gamma : io::gamma_from_name(arguments.to_gamma);
  std::string summary;
  if (!arguments.to_gamma.empty()) {
    if (!from.gamma) {
      throw std::invalid_argument(arguments.input +
                                  " does not say its gamma mode: give --gamma legacy (files of the original's in-place "
                                  "layers), --gamma signed (BatchNorm, iabn) or the original's --config");
    }
    convert_gamma(checkpoint.root, *from.gamma, *to, arguments.eps);
    const io::NormSummary norms = summarise_norms(checkpoint.root, arguments.eps);
    summary = std::string("; gamma ") + name_of(*from.gamma) + " (says " + from.source + ") -> " + name_of(*to) +
              (from.gamma == to ? ", the same weights" : "") + ": " + std::to_string(norms.norms) + " norms, " +
              std::to_string(norms.channels) + " channels";
  }
  const bool safetensors = output_format(arguments) == "safetensors";
  std::string bytes;
  bool says_gamma = true;
  std::vector<std::string> left_out;
  if (safetensors || arguments.only_weights) {
    io::StateDict weights = state_dict(checkpoint.root);
    left_out = weights.left_out;
    summary = "; " + std::to_string(weights.tensors.size()) + " tensors" + summary;
    says_gamma = safetensors;
    bytes = safetensors ? safetensors_bytes(as_safetensors(checkpoint, std::move(weights), to))
                        : io::pytorch_bytes(bare(weights));
  } else {
    if (to) says_gamma = note_gamma(checkpoint.root, *to);
    bytes = io::pytorch_bytes(checkpoint.root);
  }
  train::replace_file(arguments.output, bytes);
  std::cout << arguments.output << ": " << (safetensors ? "safetensors" : "PyTorch") << ", " << bytes.size() << " bytes"
            << summary << "\n";
  if (!left_out.empty()) std::cout << "left out, as no weights: " << io::printable(join(left_out)) << "\n";
  if (to && !says_gamma) {
    std::cout << "a bare state dict cannot say its gamma mode: tell its readers that it is " << name_of(*to) << "\n";
  }
  return kOk;
}

int run_convert(const Arguments& arguments) {
  check_arguments(arguments);
  io::Checkpoint checkpoint = io::load_checkpoint(arguments.input);
  warn_of_checksums(arguments, checkpoint);
  try {
    if (!arguments.list) return write(arguments, checkpoint);
    print_checkpoint(std::cout, arguments.input, checkpoint, arguments.eps);
    const InputGamma from = input_gamma(arguments, checkpoint, io::find_published_model(io::md5(checkpoint.file)));
    std::cout << "gamma: "
              << (from.gamma ? std::string(name_of(*from.gamma)) + ", says " + from.source
                             : "not said; signed if of BatchNorm, legacy if of the original's in-place layers")
              << "\n";
    return kOk;
  } catch (const io::CheckpointError& error) {
    throw io::CheckpointError(arguments.input + ": " + error.what());
  }
}

}  // namespace

void add_convert(CLI::App& app, Run& run) {
  auto arguments = std::make_shared<Arguments>();
  CLI::App* command = app.add_subcommand(
      "convert", "Convert checkpoints between PyTorch and safetensors files and between gamma modes, or show them");
  command->add_option("IN", arguments->input, "File of torch.save (both formats) or safetensors")->required();
  command->add_option("OUT", arguments->output,
                      "File to write; .safetensors, or .pth and the like for PyTorch's format");
  command->add_flag("--list", arguments->list, "Show keys, types, shapes and checks of IN instead of writing");
  command
      ->add_option("--format", arguments->format, "Format of OUT: pytorch or safetensors; by default as its name says")
      ->check(CLI::IsMember({"pytorch", "safetensors"}));
  command
      ->add_option(
          "--gamma", arguments->gamma,
          "What the norms' weights in IN are: signed (BatchNorm, iabn) or legacy (|weight| + eps, the original's "
          "in-place layers); by default what IN says")
      ->check(CLI::IsMember({"signed", "legacy"}));
  command->add_option("--to-gamma", arguments->to_gamma, "What they are to be in OUT; by default they stay as they are")
      ->check(CLI::IsMember({"signed", "legacy"}));
  command->add_option("--config", arguments->config,
                      "Configuration with which the original wrote IN: its bn_mode tells the gamma mode");
  command->add_option("--eps", arguments->eps, "eps of the norms, for legacy gamma")
      ->capture_default_str()
      ->check(at_least(0));
  command->add_flag("--state-dict", arguments->only_weights,
                    "Write the weights alone, without epoch, optimiser and \"module.\" (safetensors files always do)");
  command->add_flag("--force", arguments->force, "Replace OUT where it exists");
  command->callback([arguments, &run] { run = [arguments] { return run_convert(*arguments); }; });
}

}  // namespace iabn::cli
