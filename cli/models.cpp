// iabn models: the networks of the registry with what they cost.

#include <algorithm>
#include <cstdio>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include "cli/checks.h"
#include "cli/commands.h"
#include "iabn/io/published.h"
#include "iabn/models/deeplab_v3.h"
#include "iabn/models/nearest.h"
#include "iabn/models/network.h"
#include "iabn/models/registry.h"
#include "iabn/train/network_cost.h"

namespace iabn::cli {
namespace {

constexpr const char* kHead = "deeplab_v3";
constexpr int64_t kHeadScale = 8;  // of the map that wider_resnet38_a2 with dilation gives it

struct Arguments {
  std::vector<std::string> names;
  int64_t input = 224, batch = 1;
  bool published = false;
};

train::NetworkCost cost(const std::string& name, const std::string& norm_mode, const Arguments& arguments) {
  models::NetworkOptions options;
  options.norm_mode = norm_mode;
  options.activation = "leaky_relu";
  return train::network_cost(name, options, {arguments.batch, 3, arguments.input, arguments.input});
}

train::NetworkCost head_cost(const std::string& norm_mode, const Arguments& arguments, int64_t batch) {
  models::DeepLabV3Options options;
  options.norm_mode = norm_mode;
  options.activation = "leaky_relu";
  const int64_t side = (arguments.input + kHeadScale - 1) / kHeadScale;
  const auto build = [&]() -> train::Runnable {
    auto head = std::make_shared<models::DeepLabV3>(options);
    return {head, [head](at::Tensor x) { return head->forward(std::move(x)); }};
  };
  return train::network_cost(build, {batch, options.in_channels, side, side});
}

void print_row(const std::string& name, const train::NetworkCost& standard, const train::NetworkCost& in_place,
               int64_t batch) {
  const auto per_image = [&](int64_t count, double unit) {
    return static_cast<double>(count) / static_cast<double>(batch) / unit;
  };
  std::printf("%-18s %12.2f %10.2f %14.1f %14.1f %7.2f\n", name.c_str(), static_cast<double>(standard.parameters) / 1e6,
              per_image(standard.multiply_adds, 1e9), per_image(standard.held, 1 << 20),
              per_image(in_place.held, 1 << 20),
              static_cast<double>(in_place.held) / static_cast<double>(standard.held));
  std::fflush(stdout);
}

int list_published() {
  std::printf("Models that the authors of In-Place Activated BatchNorm published, and the results that they report\n");
  std::printf("(ImageNet validation, top-1/top-5, %%). iabn convert --list and iabn validate read their files.\n\n");
  std::printf("%-28s %-18s %-9s %5s %13s %13s %13s  %s\n", "model", "arch", "bn_mode", "batch", "224", "224, 10 crops",
              "320", "md5");
  const auto pair = [](const io::Accuracy& accuracy) {
    char text[32];
    std::snprintf(text, sizeof text, "%.2f/%.2f", accuracy.top1, accuracy.top5);
    return std::string(accuracy.top1 > 0 ? text : "-");
  };
  for (const io::PublishedModel& model : io::published_models()) {
    std::printf("%-28s %-18s %-9s %5d %13s %13s %13s  %s\n", std::string(model.name).c_str(),
                std::string(model.arch).c_str(), std::string(model.bn_mode).c_str(), model.batch_size,
                pair(model.crop224).c_str(), pair(model.ten_crops224).c_str(), pair(model.crop320).c_str(),
                std::string(model.md5).c_str());
    if (model.vistas_miou > 0) std::printf("%-28s Mapillary Vistas, test: mIoU %.2f %%\n", "", model.vistas_miou);
  }
  return kOk;
}

int run_models(Arguments arguments) {
  if (arguments.published) return list_published();
  std::vector<std::string> known = models::network_names();
  known.emplace_back(kHead);
  if (arguments.names.empty()) arguments.names = known;
  for (const std::string& name : arguments.names) {
    if (std::find(known.begin(), known.end(), name) != known.end()) continue;
    throw std::invalid_argument("unknown network \"" + name + "\"" + did_you_mean(name, known) +
                                "; known: " + join(known));
  }
  std::printf("%-18s %12s %10s %30s\n", "", "parameters", "multiply-", "held for backward, MiB/image");
  std::printf("%-18s %12s %10s %14s %14s %7s\n", "network", "(millions)", "adds (G)", "standard BN", "InPlace-ABN",
              "ratio");
  for (const std::string& name : arguments.names) {
    if (name == kHead) {
      const int64_t batch = std::max<int64_t>(arguments.batch, 2);  // of the global average: a value for each image
      print_row(name, head_cost("standard", arguments, batch), head_cost("inplace", arguments, batch), batch);
    } else {
      print_row(name, cost(name, "standard", arguments), cost(name, "inplace", arguments), arguments.batch);
    }
  }
  std::printf(
      "\ninput %ldx%ld, float32, 1000 classes, leaky ReLU, batch %ld; %s: its map is %ld times smaller, 4096\n"
      "channels. held: what a forward pass in training leaves allocated, without parameters and input.\n",
      arguments.input, arguments.input, arguments.batch, kHead, kHeadScale);
  return kOk;
}

}  // namespace

void add_models(CLI::App& app, Run& run) {
  auto arguments = std::make_shared<Arguments>();
  CLI::App* command = app.add_subcommand("models", "The networks: parameters, multiply-adds, activation memory");
  command->add_option("NAME", arguments->names, "Networks to list; all by default");
  command->add_option("--input", arguments->input, "Side of the square input")
      ->capture_default_str()
      ->check(CLI::Range(32, 8192));
  command->add_option("--batch", arguments->batch, "Images in the batch")->capture_default_str()->check(at_least(1));
  command->add_flag("--published", arguments->published,
                    "List the models that the method's authors published, with their results and md5 sums, instead");
  command->callback([arguments, &run] { run = [arguments] { return run_models(*arguments); }; });
}

}  // namespace iabn::cli
