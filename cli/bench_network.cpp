// iabn bench network: the network of a configuration with standard BatchNorm and with InPlace-ABN, side by side.
//
// held: bytes allocated after forward minus before it. peak: the most bytes over a whole training step, minus before
// it. Before = weights, autocast's copies of them, momentum and the input, so they are in neither. Bytes are counted by
// the allocator.

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <memory>
#include <optional>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "cli/bench_support.h"
#include "cli/checks.h"
#include "cli/commands.h"
#include "cli/training_bench.h"
#include "iabn/train/atomic_file.h"
#include "iabn/train/build.h"
#include "iabn/train/csv_log.h"
#include "iabn/train/device.h"
#include "iabn/train/memory_meter.h"
#include "iabn/train/parse_json.h"

namespace iabn::cli {
namespace {

constexpr int kWarmUpSteps = 5;  // a CUDA graph is captured in the fourth

struct Arguments {
  std::string config, device = "auto", accuracy_from, result;
  int threads = 0, steps = 30;
  std::optional<int64_t> batch_size;
  std::optional<std::string> precision;
  bool cuda_graph = false;
};

struct Figures {
  int64_t held = 0, peak = 0;
  Spread step_ms;
};

void measure_memory(train::Config config, const std::string& bn_mode, c10::Device device, Figures& figures) {
  config.cuda_graph = false;  // its memory is the step's peak, always held
  config.optimizer.accumulation_steps = 1;
  train::MemoryMeter meter(device);
  TrainingBench bench(config, bn_mode, device);
  for (int i = 0; i < kWarmUpSteps; ++i) bench.step();
  // The gradients of the last step go with forward()'s zero_grad; they are not this step's.
  const int64_t with_gradients = meter.current();
  int64_t gradients = 0;
  {
    at::Tensor loss = bench.forward();
    loss.reset();
    gradients = with_gradients - meter.current();
  }
  const int64_t before = with_gradients - gradients + bench.weight_copies();
  meter.reset_peak();
  const at::Tensor loss = bench.forward();
  figures.held = meter.current() - before;
  bench.backward(loss);
  train::synchronize(device);
  figures.peak = meter.peak() - before;
}

void measure_time(const train::Config& config, c10::Device device, int steps, Figures& standard, Figures& in_place) {
  TrainingBench standard_bench(config, "standard", device), in_place_bench(config, "inplace", device);
  std::vector<double> standard_ms, in_place_ms;
  for (int i = -kWarmUpSteps; i < steps; ++i) {
    const double a = time_each(device, {[&] { standard_bench.step(); }}).front();
    const double b = time_each(device, {[&] { in_place_bench.step(); }}).front();
    if (i < 0) continue;
    standard_ms.push_back(a);
    in_place_ms.push_back(b);
  }
  standard.step_ms = spread(standard_ms);
  in_place.step_ms = spread(in_place_ms);
}

void print_table(const Figures& standard, const Figures& in_place) {
  const auto row = [](const char* what, double a, double b) {
    std::printf("%-38s %12.2f %14.2f %11.2f\n", what, a, b, b / a);
  };
  const auto mebibytes = [](int64_t bytes) { return static_cast<double>(bytes) / (1 << 20); };
  std::printf("%-38s %12s %14s %11s\n", "", "standard BN", "InPlace-ABN", "ratio");
  row("activations held after forward, MiB", mebibytes(standard.held), mebibytes(in_place.held));
  row("peak over the step, MiB", mebibytes(standard.peak), mebibytes(in_place.peak));
  row("time per step, ms (median)", standard.step_ms.p50, in_place.step_ms.p50);
  std::printf("%-38s %5.2f - %5.2f %6.2f - %5.2f\n", "  20 % - 80 % of the steps", standard.step_ms.p20,
              standard.step_ms.p80, in_place.step_ms.p20, in_place.step_ms.p80);
}

nlohmann::json read_result(const std::string& path) {
  nlohmann::json result = nlohmann::json::object();
  if (std::ifstream file(path); file) {
    try {
      result = train::parse_json(file);
    } catch (const std::exception&) {
      result = nullptr;
    }
    if (!result.is_object()) throw train::FileError(path + ": exists and is no JSON object of results; remove it");
  }
  return result;
}

int run_bench_network(const Arguments& arguments) {
  train::Config config = train::load_config(arguments.config);
  check_comparable(config);
  if (arguments.batch_size) config.optimizer.batch_size = *arguments.batch_size;
  config = train::parse_config(train::to_json(config));  // the new batch must fit the other keys
  if (arguments.threads > 0) at::set_num_threads(arguments.threads);
  if (arguments.precision) config.precision = *arguments.precision;
  config.cuda_graph |= arguments.cuda_graph;
  const c10::Device device = train::prepare_device(config, arguments.device);
  std::optional<double> accuracy;  // read first: a missing log should cost no time
  if (!arguments.accuracy_from.empty()) {
    accuracy = train::last_validation_accuracy(std::filesystem::path(arguments.accuracy_from) / "log.csv") / 100;
  }
  if (!arguments.result.empty()) {
    train::check_replaceable(arguments.result);
    read_result(arguments.result);
  }
  warn_if_busy();
  Figures standard, in_place;
  measure_memory(config, "standard", device, standard);
  measure_memory(config, "inplace", device, in_place);
  measure_time(config, device, arguments.steps, standard, in_place);

  const std::string device_name = describe_machine(device).gpu;
  std::printf("%s, batch of %ld images %ldx%ldx%ld, %s%s, on %s\n", config.network.arch.c_str(),
              config.optimizer.batch_size, config.input.channels, config.input.crop_train, config.input.crop_train,
              config.precision.c_str(), config.cuda_graph ? ", CUDA graph" : "", device_name.c_str());
  if (accuracy) std::printf("test accuracy of the trained network: %.2f %%\n", 100 * *accuracy);
  print_table(standard, in_place);
  if (arguments.result.empty()) return kOk;
  nlohmann::json figures = {{"held_bytes_standard", standard.held},
                            {"held_bytes_inplace", in_place.held},
                            {"peak_bytes_standard", standard.peak},
                            {"peak_bytes_inplace", in_place.peak},
                            {"step_ms_standard", standard.step_ms.p50},
                            {"step_ms_inplace", in_place.step_ms.p50},
                            {"device", device.type() == c10::kCPU ? "cpu: " + device_name : "cuda: " + device_name}};
  if (accuracy) figures["test_accuracy"] = *accuracy;
  nlohmann::json result = read_result(arguments.result);
  result.update(figures);
  train::replace_file(arguments.result, result.dump(2) + "\n");
  std::printf("written to %s\n", arguments.result.c_str());
  return kOk;
}

}  // namespace

void add_bench_network(CLI::App& app, Run& run) {
  auto arguments = std::make_shared<Arguments>();
  CLI::App* command =
      app.add_subcommand("network", "Memory and time of a training step: standard BatchNorm and InPlace-ABN");
  command->add_option("CONFIG", arguments->config, "JSON configuration; its bn_mode does not matter")->required();
  command->add_option("--batch-size", arguments->batch_size, "Instead of optimizer.batch_size")->check(at_least(1));
  command->add_option("--precision", arguments->precision, "float32, bf16 or fp16, instead of the configuration's")
      ->check(CLI::IsMember({"float32", "bf16", "fp16"}));
  command->add_flag("--cuda-graph", arguments->cuda_graph, "Time the step as one CUDA graph");
  command->add_option("--steps", arguments->steps, "Timed steps of each network")
      ->capture_default_str()
      ->check(at_least(1));
  command->add_option("--device", arguments->device, "auto, cpu, cuda or cuda:N")->capture_default_str();
  command->add_option("--threads", arguments->threads, "Threads on the CPU; by default all cores")->check(at_least(1));
  command->add_option("--accuracy-from", arguments->accuracy_from,
                      "Folder of a training run: the last test accuracy of its log.csv goes into the result");
  command->add_option("--result", arguments->result, "Merge the figures into this JSON file");
  command->callback([arguments, &run] { run = [arguments] { return run_bench_network(*arguments); }; });
}

}  // namespace iabn::cli
