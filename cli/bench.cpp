// iabn bench: measures the layer or a whole network.

#include <CLI/CLI.hpp>

#include "cli/commands.h"

namespace iabn::cli {

void add_bench(CLI::App& app, Run& run) {
  CLI::App* command = app.add_subcommand("bench", "Measure time and memory beside standard BatchNorm");
  command->require_subcommand(1);
  add_bench_layer(*command, run);
  add_bench_network(*command, run);
}

}  // namespace iabn::cli
