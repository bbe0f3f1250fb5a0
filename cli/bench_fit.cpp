// iabn bench fit: the largest batch and the largest crop whose training step stays within a memory budget, with
// standard BatchNorm and with InPlace-ABN.
//
// Counted is the most that LibTorch's allocator has given out at once during a step: weights, gradients, momentum, the
// batch, activations and cuDNN's workspaces. What the process needs beside them (the CUDA context, some 0.5 GiB) is
// not.

#include <cinttypes>
#include <cmath>
#include <cstdio>
#include <functional>
#include <memory>
#include <string>

#include <ATen/ATen.h>
#include <ATen/Context.h>
#include <CLI/CLI.hpp>

#include "cli/bench_support.h"
#include "cli/checks.h"
#include "cli/commands.h"
#include "cli/training_bench.h"
#include "iabn/train/atomic_file.h"
#include "iabn/train/build.h"
#include "iabn/train/device.h"
#include "iabn/train/memory_meter.h"

namespace iabn::cli {
namespace {

constexpr int64_t kSideUnit = 32;  // crops grow by it: networks halve them up to five times

struct Arguments {
  std::string config, device = "auto", csv;
  double memory = 16;  // GiB
  int64_t crop = 512, batch_size = 8;
};

// The largest n >= 2 with peak(n) <= budget; 0 where 2 is too much. 1 is not asked for: a single image has no
// statistics where a network averages over the whole picture, and no network has a side of 32 pixels left behind its
// strides. peak grows at most like n^power, from a fixed part on, so going by n^power alone never asks for more than
// fits by much.
int64_t largest(const std::function<int64_t(int64_t)>& peak, int64_t budget, double power) {
  int64_t good = 1, bad = 0;  // bad: too much, 0 before the first
  for (int64_t n = 2;;) {
    const int64_t bytes = peak(n);
    (bytes <= budget ? good : bad) = n;
    if (bad != 0 && bad <= good + 1) return good > 1 ? good : 0;
    int64_t next = good + 1;
    if (bytes <= budget) {
      const double more = std::pow(static_cast<double>(budget) / static_cast<double>(bytes), 1 / power);
      next = std::max(next, static_cast<int64_t>(static_cast<double>(n) * std::min(more, 4.0)));
    }
    n = bad != 0 ? std::min(next, bad - 1) : next;
  }
}

class Fit {
 public:
  Fit(const train::Config& config, const std::string& bn_mode, c10::Device device)
      : device_(device), meter_(device), bench_(config, bn_mode, device) {}

  /// The most bytes during one step, after one to settle; more than any budget where the device has not enough.
  int64_t peak(int64_t batch, int64_t side) {
    try {
      bench_.set_batch(batch, side);
      bench_.step();
      train::synchronize(device_);
      meter_.reset_peak();
      bench_.step();
      train::synchronize(device_);
    } catch (const c10::OutOfMemoryError&) {
      return INT64_MAX;
    }
    return meter_.peak();
  }

 private:
  c10::Device device_;
  train::MemoryMeter meter_;
  TrainingBench bench_;
};

int run_bench_fit(const Arguments& arguments) {
  train::Config config = train::load_config(arguments.config);
  check_comparable(config);
  config.cuda_graph = false;  // of one shape
  config.optimizer.accumulation_steps = 1;
  config.optimizer.batch_size = 2;
  config.input.crop_train = 2 * kSideUnit;
  const c10::Device device = train::prepare_device(config, arguments.device);
  // Algorithms that are timed take what memory they like.
  at::globalContext().setBenchmarkCuDNN(false);
  if (!arguments.csv.empty()) train::check_replaceable(arguments.csv);
  const auto budget = static_cast<int64_t>(arguments.memory * (int64_t{1} << 30));

  const Machine machine = describe_machine(device);
  std::printf("%s, %s, %s, within %g GiB on %s\n", config.network.arch.c_str(), config.task.c_str(),
              config.precision.c_str(), arguments.memory, machine.gpu.c_str());
  char name[48];
  std::snprintf(name, sizeof name, "fit in %g GiB", arguments.memory);
  CsvRows rows(machine, name);
  int64_t batches[2], sides[2];
  for (const bool in_place : {false, true}) {
    const char* mode = in_place ? "inplace" : "standard";
    {
      Fit fit(config, mode, device);
      batches[in_place] = largest([&](int64_t n) { return fit.peak(n, arguments.crop); }, budget, 1);
    }
    {
      Fit fit(config, mode, device);
      sides[in_place] =
          kSideUnit * largest([&](int64_t n) { return fit.peak(arguments.batch_size, kSideUnit * n); }, budget, 2);
    }
    const auto number = [](int64_t n) { return Spread{double(n), double(n), double(n)}; };
    const std::string variant = config.network.arch + " " + mode;
    const std::string layout = config.channels_last ? "channels_last" : "contiguous";
    rows.add(variant, "crop " + std::to_string(arguments.crop), config.precision, layout, "step", "batch",
             number(batches[in_place]), "images");
    rows.add(variant, "batch " + std::to_string(arguments.batch_size), config.precision, layout, "step", "crop",
             number(sides[in_place]), "pixels");
    std::fflush(stdout);
  }
  std::printf("%-28s %10s %12s %8s\n", "", "standard", "InPlace-ABN", "more");
  const auto row = [](const std::string& what, const int64_t(&n)[2]) {
    const double more = n[0] > 0 ? 100 * (double(n[1]) / double(n[0]) - 1) : n[1] > 0 ? INFINITY : 0;
    std::printf("%-28s %10" PRId64 " %12" PRId64 " %+7.0f %%\n", what.c_str(), n[0], n[1], more);
  };
  row("batch of crops of " + std::to_string(arguments.crop), batches);
  row("crop, batch of " + std::to_string(arguments.batch_size), sides);
  row("  its pixels", {sides[0] * sides[0], sides[1] * sides[1]});
  if (!arguments.csv.empty()) rows.write(arguments.csv);
  return kOk;
}

}  // namespace

void add_bench_fit(CLI::App& app, Run& run) {
  auto arguments = std::make_shared<Arguments>();
  CLI::App* command = app.add_subcommand(
      "fit",
      "The largest batch and crop that train within a memory budget (0: even a batch of 2, or a crop of 64, needs "
      "more): standard BatchNorm and InPlace-ABN");
  command->add_option("CONFIG", arguments->config, "JSON configuration; its bn_mode, batch and crop do not matter")
      ->required();
  command->add_option("--memory", arguments->memory, "Budget in GiB, of what LibTorch's allocator gives out")
      ->capture_default_str()
      ->check(above_zero());
  command->add_option("--crop", arguments->crop, "Side of the crops in the search for the largest batch")
      ->capture_default_str()
      ->check(CLI::Range(32, 8192));
  command->add_option("--batch-size", arguments->batch_size, "Batch in the search for the largest crop")
      ->capture_default_str()
      ->check(at_least(1));
  command->add_option("--device", arguments->device, "auto, cpu, cuda or cuda:N")->capture_default_str();
  command->add_option("--csv", arguments->csv, "Write the figures to this file");
  command->callback([arguments, &run] { run = [arguments] { return run_bench_fit(*arguments); }; });
}

}  // namespace iabn::cli
