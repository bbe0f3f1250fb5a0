#pragma once

// The subcommands. Each adds itself to the command line and, where it is chosen, sets `run`; run's result is the exit
// code. Errors leave run as exceptions, which main.cpp prints.

#include <functional>

namespace CLI {
class App;
}

namespace iabn::cli {

using Run = std::function<int()>;

// Exit codes of the program; an interrupted run exits with 128 + the signal (130, 143).
inline constexpr int kOk = 0;
inline constexpr int kError = 1;   // anything that went wrong while working
inline constexpr int kUsage = 2;   // the command line or the configuration is wrong
inline constexpr int kPartly = 3;  // predict: bad pictures were left out

void add_train(CLI::App& app, Run& run);
void add_validate(CLI::App& app, Run& run);
void add_predict(CLI::App& app, Run& run);
void add_bench(CLI::App& app, Run& run);
void add_convert(CLI::App& app, Run& run);
void add_doctor(CLI::App& app, Run& run);
void add_models(CLI::App& app, Run& run);

// Of `bench`.
void add_bench_layer(CLI::App& app, Run& run);
void add_bench_network(CLI::App& app, Run& run);
void add_bench_fit(CLI::App& app, Run& run);
void add_bench_loader(CLI::App& app, Run& run);

}  // namespace iabn::cli
