#include "iabn/models/registry.h"

#include <stdexcept>

#include "iabn/models/cifar_resnet.h"
#include "iabn/models/densenet.h"
#include "iabn/models/identity_network.h"
#include "iabn/models/nearest.h"
#include "iabn/models/resnet.h"

namespace iabn::models {
namespace {

using Blocks = std::vector<int64_t>;  // per module

enum class DilationForm { kNone, kModules, kBlocks, kSwitch };

struct Family {
  std::shared_ptr<Network> (*build)(const NetworkOptions&, const Blocks&);
  DilationForm dilation = DilationForm::kNone;
  bool input_3x3 = true;  // has such a stem, or begins with a 3x3 convolution anyway
  bool width = false;
  bool wider = false;
};

template <class T, auto... kArguments>
std::shared_ptr<Network> build(const NetworkOptions& options, const Blocks& blocks) {
  return std::make_shared<T>(options, blocks, kArguments...);
}

constexpr Family kPreact{.build = build<PreactResNet>, .width = true};
constexpr Family kCifar{.build = build<CifarResNet>};
constexpr Family kBasic{.build = build<ResNet, false>, .dilation = DilationForm::kModules, .input_3x3 = false};
constexpr Family kBottleneck{.build = build<ResNet, true>, .dilation = DilationForm::kModules, .input_3x3 = false};
constexpr Family kResNeXt{.build = build<ResNeXt>, .dilation = DilationForm::kBlocks};
constexpr Family kWider{.build = build<WiderResNet, false>, .wider = true};
constexpr Family kWiderA2{.build = build<WiderResNet, true>, .dilation = DilationForm::kSwitch, .wider = true};
constexpr Family kDenseNet{.build = build<DenseNet>, .dilation = DilationForm::kModules};

struct Entry {
  const char* name;
  const Family& family;
  Blocks blocks;
};

const std::vector<Entry>& table() {
  static const std::vector<Entry> kTable = {
      {"resnet18", kBasic, {2, 2, 2, 2}},
      {"resnet34", kBasic, {3, 4, 6, 3}},
      {"resnet50", kBottleneck, {3, 4, 6, 3}},
      {"resnet101", kBottleneck, {3, 4, 23, 3}},
      {"resnet152", kBottleneck, {3, 8, 36, 3}},
      {"resnext50", kResNeXt, {3, 4, 6, 3}},
      {"resnext101", kResNeXt, {3, 4, 23, 3}},
      {"resnext152", kResNeXt, {3, 8, 36, 3}},
      {"wider_resnet16", kWider, {1, 1, 1, 1, 1, 1}},
      {"wider_resnet20", kWider, {1, 1, 1, 3, 1, 1}},
      {"wider_resnet38", kWider, {3, 3, 6, 3, 1, 1}},
      {"wider_resnet16_a2", kWiderA2, {1, 1, 1, 1, 1, 1}},
      {"wider_resnet20_a2", kWiderA2, {1, 1, 1, 3, 1, 1}},
      {"wider_resnet38_a2", kWiderA2, {3, 3, 6, 3, 1, 1}},
      {"densenet121", kDenseNet, {6, 12, 24, 16}},
      {"densenet169", kDenseNet, {6, 12, 32, 32}},
      {"densenet201", kDenseNet, {6, 12, 48, 32}},
      {"densenet264", kDenseNet, {6, 12, 64, 48}},
      // The numbers below count the layers with weights: 6 per block of each module, stem and classifier.
      {"cifar_resnet20", kCifar, {3, 3, 3}},
      {"cifar_resnet32", kCifar, {5, 5, 5}},
      {"cifar_resnet44", kCifar, {7, 7, 7}},
      {"cifar_resnet56", kCifar, {9, 9, 9}},
      {"preact_resnet8", kPreact, {1, 1, 1}},
      {"preact_resnet14", kPreact, {2, 2, 2}},
      {"preact_resnet20", kPreact, {3, 3, 3}},
  };
  return kTable;
}

const Entry& find(const std::string& name) {
  for (const Entry& entry : table()) {
    if (name == entry.name) return entry;
  }
  throw std::invalid_argument("unknown network \"" + name + "\"" + did_you_mean(name, network_names()) +
                              "; known: " + join(network_names()));
}

std::string module_error(const ModuleDilation& dilation, size_t module, const Entry& entry) {
  const auto* number = std::get_if<int64_t>(&dilation);
  const Blocks numbers = number != nullptr ? Blocks{*number} : std::get<Blocks>(dilation);
  for (const int64_t d : numbers) {
    if (d < 1) return "must be at least 1, got " + std::to_string(d);
  }
  if (number != nullptr) return "";
  const std::string place = "module " + std::to_string(module + 1) + " of " + entry.name;
  if (entry.family.dilation != DilationForm::kBlocks) {
    return place + " takes one number, not a list: only resnext* have a dilation for each block";
  }
  const auto blocks = static_cast<size_t>(entry.blocks[module]);
  if (numbers.size() == blocks) return "";
  return place + " has " + std::to_string(blocks) + " blocks, got " + std::to_string(numbers.size()) + " numbers";
}

std::string modules_error(const Dilation& dilation, const Entry& entry) {
  const std::string name = entry.name;
  if (const auto* number = std::get_if<int64_t>(&dilation)) return module_error(*number, 0, entry);
  const auto* modules = std::get_if<std::vector<ModuleDilation>>(&dilation);
  if (modules == nullptr) return name + " takes a number or a list, not true or false";
  if (modules->size() != entry.blocks.size()) {
    return name + " takes one number, or one for each of its " + std::to_string(entry.blocks.size()) +
           " modules, got a list of " + std::to_string(modules->size());
  }
  for (size_t module = 0; module < modules->size(); ++module) {
    const std::string error = module_error((*modules)[module], module, entry);
    if (!error.empty()) return error;
  }
  return "";
}

}  // namespace

std::vector<std::string> network_names() {
  std::vector<std::string> names;
  for (const Entry& entry : table()) names.emplace_back(entry.name);
  return names;
}

std::string dilation_error(const std::string& name, const Dilation& dilation) {
  const Entry& entry = find(name);
  switch (entry.family.dilation) {
    case DilationForm::kModules:
    case DilationForm::kBlocks:
      return modules_error(dilation, entry);
    case DilationForm::kSwitch:
      if (!std::holds_alternative<int64_t>(dilation) || std::get<int64_t>(dilation) == 1) return "";
      return name + " takes true or false, got " + to_string(dilation);
    case DilationForm::kNone:
      break;
  }
  const auto none = [](int64_t d) { return d == 1; };
  if (const auto* number = std::get_if<int64_t>(&dilation); number != nullptr && none(*number)) return "";
  if (const auto* on = std::get_if<bool>(&dilation); on != nullptr && !*on) return "";
  if (const auto* modules = std::get_if<std::vector<ModuleDilation>>(&dilation)) {
    bool all_one = true;
    for (const ModuleDilation& entries : *modules) {
      const auto* number = std::get_if<int64_t>(&entries);
      all_one = all_one && number != nullptr && none(*number);
    }
    if (all_one) return "";
  }
  return name + " has no dilation, so it must be 1, got " + to_string(dilation);
}

std::string input_3x3_error(const std::string& name, bool input_3x3) {
  if (!input_3x3 || find(name).family.input_3x3) return "";
  return name + " begins with a 7x7 convolution always; input_3x3 is for resnext* and densenet*";
}

bool has_width(const std::string& name) { return find(name).family.width; }

bool is_wider(const std::string& name) { return find(name).family.wider; }

std::shared_ptr<Network> make_network(const std::string& name, const NetworkOptions& options) {
  const Entry& entry = find(name);
  std::string error = dilation_error(name, options.dilation);
  if (!error.empty()) throw std::invalid_argument("dilation: " + error);
  error = input_3x3_error(name, options.input_3x3);
  if (!error.empty()) throw std::invalid_argument("input_3x3: " + error);
  return entry.family.build(options, entry.blocks);
}

}  // namespace iabn::models
