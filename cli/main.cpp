// iabn: trains, measures and checks In-Place Activated BatchNorm.

#include <algorithm>
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

// Nor would it say which option was meant; it lists what it did not expect, the last word first.
void check_words(const CLI::App& command, const std::string& help, bool words_too) {
  std::vector<std::string> names;
  for (const CLI::Option* option : command.get_options()) {
    names.insert(names.end(), option->get_lnames().begin(), option->get_lnames().end());
  }
  const std::vector<std::string> words = command.remaining();
  for (const std::string& word : words) {
    if (!word.starts_with('-')) continue;
    const std::string option = word.substr(0, word.find('='));
    const std::string near =
        iabn::nearest(option.substr(std::min(option.find_first_not_of('-'), option.size())), names);
    throw std::invalid_argument("unknown option " + option + (near.empty() ? "" : " (did you mean --" + near + "?)") +
                                help);
  }
  if (words_too && !words.empty()) throw std::invalid_argument("unexpected argument \"" + words.front() + "\"" + help);
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
    const CLI::App* command = &app;
    std::string help = "; see iabn";
    while (!command->get_subcommands().empty()) {
      command = command->get_subcommands().front();
      help += " " + command->get_name();
    }
    help += " --help";
    check_words(*command, help, dynamic_cast<const CLI::ExtrasError*>(&error) != nullptr);
    throw std::invalid_argument(error.what() + help);
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
