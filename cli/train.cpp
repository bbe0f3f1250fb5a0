// iabn train: trains the network of a configuration on a folder of images.

#include <csignal>
#include <cstdlib>
#include <iostream>
#include <memory>
#include <optional>
#include <sstream>
#include <string>

#include <ATen/Parallel.h>
#include <CLI/CLI.hpp>

#include "cli/checks.h"
#include "cli/commands.h"
#include "iabn/train/trainer.h"

namespace iabn::cli {
namespace {

struct Arguments {
  std::string config, data, log_dir, resume, body_gamma;
  std::optional<int64_t> epochs;
  int threads = 0;
  train::TrainOptions options;
};

// As one word of a shell's command line.
std::string quoted(const std::string& word) {
  constexpr const char* kPlain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-+=./:,@%";
  if (!word.empty() && word.find_first_not_of(kPlain) == std::string::npos) return word;
  std::string result = "'";
  for (const char c : word) result += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return result + "'";
}

std::string resume_command(const Arguments& arguments, const std::string& checkpoint) {
  std::string command = "iabn train " + quoted(arguments.config) + " " + quoted(arguments.data) + " --log-dir " +
                        quoted(arguments.log_dir) + " --resume " + quoted(checkpoint);
  if (arguments.epochs) command += " --epochs " + std::to_string(*arguments.epochs);
  if (arguments.options.device != "auto") command += " --device " + quoted(arguments.options.device);
  if (arguments.threads > 0) command += " --threads " + std::to_string(arguments.threads);
  if (arguments.options.skip_corrupt) command += " --skip-corrupt";
  if (arguments.options.workers != train::TrainOptions().workers) {
    command += " --workers " + std::to_string(arguments.options.workers);
  }
  if (arguments.options.print_frequency != train::TrainOptions().print_frequency) {
    command += " --print-frequency " + std::to_string(arguments.options.print_frequency);
  }
  if (arguments.options.weight_histograms) command += " --weight-histograms";
  if (arguments.options.trace_steps > 0) command += " --trace-steps " + std::to_string(arguments.options.trace_steps);
  if (arguments.options.snapshot_minutes > 0) {
    std::ostringstream minutes;
    minutes << arguments.options.snapshot_minutes;
    command += " --snapshot-minutes " + minutes.str();
  }
  return command;
}

std::string closing_line(const train::TrainResult& result, const std::filesystem::path& log_dir) {
  std::string line = "done; weights and state: " + (log_dir / train::kCheckpointName).string();
  if (const auto path = log_dir / train::kBestName; std::filesystem::exists(path)) {
    std::ostringstream score;
    score << result.best_score;
    line += "; best (" + result.score_label + " " + score.str() + " %): " + path.string();
  }
  return line;
}

int run_train(Arguments arguments) {
  train::Config config = train::load_config(arguments.config);
  if (arguments.epochs) config.optimizer.schedule.epochs = *arguments.epochs;
  if (arguments.log_dir.empty()) {
    arguments.log_dir = "runs/" + std::filesystem::path(arguments.config).stem().string();
  }
  if (arguments.threads > 0) at::set_num_threads(arguments.threads);
  train::TrainOptions& options = arguments.options;
  options.data = arguments.data;
  options.log_dir = arguments.log_dir;
  options.resume_auto = arguments.resume == "auto";
  if (!arguments.resume.empty() && !options.resume_auto) options.resume = arguments.resume;
  if (!arguments.body_gamma.empty()) options.body_gamma = io::gamma_from_name(arguments.body_gamma);
  const train::TrainResult result = train::train(config, options);
  if (options.evaluate_only || !result.first_process) {
    if (result.interrupted_by != 0 && result.first_process) std::cerr << "iabn: interrupted\n";
    return result.interrupted_by == 0 ? kOk : 128 + result.interrupted_by;
  }
  if (result.nothing_to_do) return kOk;
  if (result.interrupted_by == 0) {
    std::cout << closing_line(result, options.log_dir) << "\n";
    return kOk;
  }
  const std::string checkpoint = (options.log_dir / train::kCheckpointName).string();
  if (!std::filesystem::exists(checkpoint)) {
    std::cerr << "iabn: interrupted before the first step: nothing is saved; start again\n";
    return 128 + result.interrupted_by;
  }
  std::cerr << "iabn: interrupted; the state is saved. To continue"
            << (std::getenv("WORLD_SIZE") != nullptr ? " (behind the same torchrun)" : "") << ":\n  "
            << resume_command(arguments, checkpoint) << "\n";
  return 128 + result.interrupted_by;
}

}  // namespace

void add_train(CLI::App& app, Run& run) {
  auto arguments = std::make_shared<Arguments>();
  train::TrainOptions& options = arguments->options;
  CLI::App* command = app.add_subcommand("train", "Train a network on a folder of images");
  command->add_option("CONFIG", arguments->config, "JSON configuration, see configs/")->required();
  command
      ->add_option(
          "DATA", arguments->data,
          "Folder with train/CLASS/ and val/CLASS/ images, or with idx files (plain or .gz); for segmentation with "
          "train/images, train/masks, val/images and val/masks")
      ->required();
  command->add_option(
      "--log-dir", arguments->log_dir,
      "Folder for snapshots, log.csv, rank0.log and TensorBoard files; by default runs/NAME for NAME.json");
  command->add_option(
      "--resume", arguments->resume,
      "Continue from this snapshot (checkpoint.pth.tar); auto: from that in --log-dir where there is one");
  CLI::Option* body = command->add_option(
      "--body", options.body,
      "Segmentation: begin with the body's weights from this checkpoint of a classification network");
  command->add_option("--body-gamma", arguments->body_gamma, "How that file's norm weights count, signed or legacy")
      ->check(CLI::IsMember({"signed", "legacy"}))
      ->needs(body);
  command->add_flag("--any-config", options.any_config,
                    "Continue although the snapshot belongs to another configuration; the differences are listed");
  command->add_flag("--evaluate", options.evaluate_only, "Evaluate the snapshot given by --resume, and train nothing");
  command->add_option("--epochs", arguments->epochs, "Train to this epoch instead of optimizer.schedule.epochs")
      ->check(at_least(1));
  command->add_option("--workers", options.workers, "Threads that prepare data")
      ->capture_default_str()
      ->check(at_least(0));
  command->add_option("--print-frequency", options.print_frequency, "Steps between two lines where stdout is a file")
      ->capture_default_str()
      ->check(at_least(1));
  command
      ->add_option("--snapshot-minutes", options.snapshot_minutes,
                   "Also save the state this often within an epoch; 0: after epochs only")
      ->capture_default_str()
      ->check(at_least(0));
  command->add_flag("--weight-histograms", options.weight_histograms,
                    "Write the distribution of every parameter to TensorBoard after each epoch");
  command
      ->add_option("--trace-steps", options.trace_steps,
                   "Write what happens in so many steps, after the first ten, to LOG_DIR/trace_rank<r>.json "
                   "(for ui.perfetto.dev)")
      ->check(at_least(1));
  command->add_option("--device", options.device, "auto, cpu, cuda or cuda:N")->capture_default_str();
  command->add_flag("--skip-corrupt", options.skip_corrupt,
                    "Pass over images that cannot be decoded instead of stopping; they are named after each epoch");
  command->add_option("--threads", arguments->threads, "Threads for the computation on the CPU; by default all cores")
      ->check(at_least(1));
  command->callback([arguments, &run] { run = [arguments] { return run_train(*arguments); }; });
}

}  // namespace iabn::cli
