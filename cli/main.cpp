// iabn: trains, measures and checks In-Place Activated BatchNorm.

#include <exception>
#include <iostream>
#include <stdexcept>
#include <string>
#include <vector>

#include <c10/util/Exception.h>
#include <CLI/CLI.hpp>

#include "cli/commands.h"
#include "iabn/models/nearest.h"
#include "iabn/train/config.h"
#include "iabn/train/version.h"

namespace {

using namespace iabn::cli;

constexpr const char* kFooter =
    "Exit codes: 0 success, 1 error, 2 wrong command line or configuration, 3 predict left out bad pictures, 130 or "
    "143 "
    "interrupted (Ctrl-C, SIGTERM).";

int fail(const std::string& text, int code) {
  std::cerr << "iabn: error: " << text << "\n";
  return code;
}

// CLI11 itself would only say that the argument was not expected.
void check_command(const CLI::App& app, const std::string& word) {
  std::vector<std::string> names;
  for (const CLI::App* command : app.get_subcommands({})) {
    if (command->get_name() == word) return;
    names.push_back(command->get_name());
  }
  throw std::invalid_argument("unknown command \"" + word + "\"" + iabn::did_you_mean(word, names) +
                              "; commands: " + iabn::join(names) + "; see iabn --help");
}

void add_version(CLI::App& app, const std::string& version) {
  app.set_version_flag("--version", version);
  for (CLI::App* command : app.get_subcommands({})) add_version(*command, version);
}

int run_program(int argc, char** argv) {
  CLI::App app(
      "In-Place Activated BatchNorm: train a network, measure the layer, convert checkpoints, check the installation.",
      "iabn");
  const std::string version = std::string("iabn ") + iabn::train::kVersion;
  app.footer(kFooter);
  app.require_subcommand(1);
  Run run;
  add_train(app, run);
  add_validate(app, run);
  add_predict(app, run);
  add_bench(app, run);
  add_convert(app, run);
  add_doctor(app, run);
  add_models(app, run);
  add_version(app, version);
  if (argc == 1) {
    std::cout << app.help();
    return kUsage;
  }
  if (argv[1][0] != '-') check_command(app, argv[1]);
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& success) {  // --help, --version
    return app.exit(success);
  } catch (const CLI::ParseError& error) {
    std::string command = "iabn";
    for (const CLI::App* chosen = &app; !chosen->get_subcommands().empty();) {
      chosen = chosen->get_subcommands().front();
      command += " " + chosen->get_name();
    }
    throw std::invalid_argument(std::string(error.what()) + "; see " + command + " --help");
  }
  return run();
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run_program(argc, argv);
  } catch (const iabn::train::ConfigError& error) {
    return fail(error.what(), kUsage);
  } catch (const std::invalid_argument& error) {
    return fail(error.what(), kUsage);
  } catch (const c10::Error& error) {
    return fail(error.what_without_backtrace(), kError);
  } catch (const std::exception& error) {
    return fail(error.what(), kError);
  }
}
