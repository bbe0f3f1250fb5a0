// iabn bench layer: InPlaceABN beside ATen's batch_norm + in-place activation, same process, rounds interleaved.
//
// Byte model, one pass = one tensor's bytes at the copy bandwidth of this run: forward 3 passes (statistics read x;
// apply reads x and writes z), backward 5 (reduce reads z and d_z; apply reads both and writes d_x). Bandwidths count
// these bytes, also where kernels keep data on chip and move fewer.

#include <array>
#include <cstdio>
#include <memory>

#include <ATen/Parallel.h>
#include <CLI/CLI.hpp>

#include "cli/bench_support.h"
#include "cli/checks.h"
#include "cli/commands.h"
#include "cli/layer_case.h"
#include "cli/layer_summary.h"
#include "cli/layer_table.h"
#include "iabn/train/atomic_file.h"
#include "iabn/train/device.h"

namespace iabn::cli {
namespace {

constexpr std::array<double, 3> kModelPasses = {3, 5, 8};  // in the order of kPassNames

struct Arguments {
  std::vector<std::string> shapes, networks;
  std::vector<std::string> dtypes = {"float32", "bfloat16"};
  std::vector<std::string> layouts = {"contiguous", "channels_last"};
  std::string device = "auto", activation = "leaky_relu", table, csv;
  double activation_param = 0.01;
  int threads = 0, rounds = 10;
};

struct Report {
  double bandwidth;  // bytes per second
  CsvRows* rows;
};

void report_pass(const Report& report, const LayerCase& layer, const char* pass, double model_passes,
                 const Spread& ours, const Spread& aten) {
  const double bytes = static_cast<double>(layer.bytes());
  const auto line = [&](const char* variant, const Spread& ms, const std::string& end) {
    const double pass_ms = 1e3 * bytes / report.bandwidth;
    const double gigabytes = model_passes * bytes / ms.p50 / 1e6;
    std::printf("  %-14s %-10s %9.3f ms (%.3f - %.3f) %7.2f passes %8.1f GB/s %5.0f %% of copy%s\n", pass, variant,
                ms.p50, ms.p20, ms.p80, ms.p50 / pass_ms, gigabytes, 1e11 * gigabytes / report.bandwidth, end.c_str());
    const auto row = [&](const char* metric, double scale, const char* unit) {
      // Of a rate, the fast times are the high values.
      const Spread value = scale > 0 ? Spread{ms.p20 * scale, ms.p50 * scale, ms.p80 * scale}
                                     : Spread{-scale / ms.p80, -scale / ms.p50, -scale / ms.p20};
      report.rows->add(variant, layer.shape, layer.dtype, layer.layout, pass, metric, value, unit);
    };
    row("time", 1, "ms");
    row("passes", 1 / pass_ms, "tensors");
    row("bandwidth", -model_passes * bytes / 1e6, "GB/s");
  };
  char speedup[32];
  std::snprintf(speedup, sizeof speedup, "   %.2fx", aten.p50 / ours.p50);
  line("iabn", ours, speedup);
  line("batch_norm", aten, "");
}

CaseTimes run_case(const LayerCase& layer, int rounds, const Report& report) {
  std::printf("[%s] %s %s\n", layer.shape.c_str(), layer.dtype.c_str(), layer.layout.c_str());
  LayerTimes ours, aten;
  HeadStart head_start;
  bool late = false;
  for (int round = 0; round <= rounds; ++round) {
    const LayerTimes a = layer.measure(true, head_start), b = layer.measure(false, head_start);
    late |= !head_start.sufficed;
    if (round == 0) continue;  // warm-up
    ours.append(a);
    aten.append(b);
  }
  if (late) std::printf("  note: the host could not keep ahead of the device; its calls are part of some times\n");
  CaseTimes medians{layer.shape, layer.dtype, layer.layout,
                    1e3 * static_cast<double>(layer.bytes()) / report.bandwidth};
  const std::array<Spread, 3> ours_ms = {spread(ours.forward), spread(ours.backward), spread(ours.both())};
  const std::array<Spread, 3> aten_ms = {spread(aten.forward), spread(aten.backward), spread(aten.both())};
  for (size_t pass = 0; pass < kPassNames.size(); ++pass) {
    report_pass(report, layer, kPassNames[pass], kModelPasses[pass], ours_ms[pass], aten_ms[pass]);
    medians.iabn[pass] = ours_ms[pass].p50;
    medians.batch_norm[pass] = aten_ms[pass].p50;
  }
  const LayerMemory ours_memory = layer.memory(true), aten_memory = layer.memory(false);
  std::printf("  memory, in tensors: held after forward %.3f (batch_norm %.3f), backward's peak %.3f (%.3f)\n",
              ours_memory.held, aten_memory.held, ours_memory.backward_peak, aten_memory.backward_peak);
  const auto memory_rows = [&](const char* variant, const LayerMemory& memory) {
    const auto row = [&](const char* pass, const char* metric, double value) {
      report.rows->add(variant, layer.shape, layer.dtype, layer.layout, pass, metric, {value, value, value}, "tensors");
    };
    row("forward", "held", memory.held);
    row("backward", "peak", memory.backward_peak);
  };
  memory_rows("iabn", ours_memory);
  memory_rows("batch_norm", aten_memory);
  std::fflush(stdout);
  return medians;
}

int run_bench_layer(Arguments arguments) {
  if (arguments.threads > 0) at::set_num_threads(arguments.threads);
  const c10::Device device = train::choose_device(arguments.device);
  std::vector<NetworkLayers> networks;
  if (!arguments.table.empty()) {
    networks = read_layer_table(arguments.table, arguments.networks);
    arguments.shapes = distinct_shapes(networks);
  } else if (arguments.shapes.empty()) {
    arguments.shapes = device.is_cpu() ? std::vector<std::string>{"32x64x56x56", "8x256x28x28"}
                                       : std::vector<std::string>{"128x256x56x56", "32x64x56x56"};
  }
  std::vector<LayerCase> cases;  // all of them first: a mistyped one should cost no time
  for (const auto& shape : arguments.shapes) {
    for (const auto& dtype : arguments.dtypes) {
      for (const auto& layout : arguments.layouts) {
        cases.emplace_back(shape, dtype, layout, device, arguments.activation, arguments.activation_param);
      }
    }
  }
  if (!arguments.csv.empty()) train::check_replaceable(arguments.csv);
  const Machine machine = describe_machine(device);
  CsvRows rows(machine, arguments.activation == "leaky_relu" ? "layer" : "layer " + arguments.activation);
  warn_if_busy();
  const double bandwidth = copy_bandwidth(device);
  std::printf("%s, LibTorch %s; copy bandwidth %.1f GB/s (read and write)\n", machine.gpu.c_str(),
              machine.torch.c_str(), bandwidth / 1e9);
  std::printf("median (p20 - p80) of %d interleaved rounds; batch_norm = ATen's batch_norm + in-place %s\n",
              arguments.rounds, arguments.activation.c_str());
  std::vector<CaseTimes> times;
  for (const LayerCase& layer : cases) times.push_back(run_case(layer, arguments.rounds, {bandwidth, &rows}));
  for (const auto& network : networks) print_summary(network, times);
  if (!arguments.csv.empty()) rows.write(arguments.csv);
  return kOk;
}

}  // namespace

void add_bench_layer(CLI::App& app, Run& run) {
  auto arguments = std::make_shared<Arguments>();
  CLI::App* command = app.add_subcommand("layer", "Time and memory of one layer, beside ATen's batch_norm");
  CLI::Option* shapes = command->add_option("--shapes", arguments->shapes,
                                            "Shapes, e.g. 32x64x56x56,8x256x28x28; the default depends on the device");
  shapes->delimiter(',');
  CLI::Option* table = command->add_option(
      "--table", arguments->table,
      "Instead of --shapes: the layers of networks, a file such as benchmarks/layers.csv; adds a summary per network");
  table->excludes(shapes);
  command->add_option("--networks", arguments->networks, "Networks of the table; by default all")
      ->delimiter(',')
      ->needs(table);
  command->add_option("--dtypes", arguments->dtypes, "float32, float64, bfloat16, float16")
      ->delimiter(',')
      ->capture_default_str();
  command->add_option("--layouts", arguments->layouts, "contiguous, channels_last")
      ->delimiter(',')
      ->capture_default_str();
  command->add_option("--device", arguments->device, "auto, cpu, cuda or cuda:N")->capture_default_str();
  command->add_option("--activation", arguments->activation, "leaky_relu, elu or identity")
      ->capture_default_str()
      ->check(CLI::IsMember({"leaky_relu", "elu", "identity"}));
  command->add_option("--activation-param", arguments->activation_param, "Slope or alpha")->capture_default_str();
  command->add_option("--threads", arguments->threads, "Threads on the CPU; by default all cores")->check(at_least(1));
  command->add_option("--rounds", arguments->rounds, "Rounds of each variant")
      ->capture_default_str()
      ->check(at_least(1));
  command->add_option("--csv", arguments->csv, "Write the rows to this file");
  command->callback([arguments, &run] { run = [arguments] { return run_bench_layer(*arguments); }; });
}

}  // namespace iabn::cli
