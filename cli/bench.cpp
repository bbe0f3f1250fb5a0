// iabn bench: measures the layer, a whole network or the loader.

#include <CLI/CLI.hpp>

#include "cli/commands.h"

namespace iabn::cli {

void add_bench(CLI::App& app, Run& run) {
  CLI::App* command = app.add_subcommand("bench", "Measure time and memory beside standard BatchNorm, or the loader");
  command->require_subcommand(1);
  add_bench_layer(*command, run);
  add_bench_network(*command, run);
  add_bench_fit(*command, run);
  add_bench_loader(*command, run);
}

}  // namespace iabn::cli
