// iabn train: trains the network of a configuration on a folder of images.

#include <csignal>
#include <iostream>
#include <memory>
#include <optional>

#include <ATen/Parallel.h>
#include <CLI/CLI.hpp>

#include "cli/commands.h"
#include "iabn/train/trainer.h"

namespace iabn::cli {
namespace {

struct Arguments {
  std::string config, data, log_dir, resume;
  std::optional<int64_t> epochs;
  int threads = 0;
  train::TrainOptions options;
};

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
  if (!arguments.resume.empty()) options.resume = arguments.resume;
  const train::TrainResult result = train::train(config, options);
  const std::string checkpoint = (options.log_dir / "checkpoint.pt").string();
  if (result.interrupted_by == 0) {
    std::cout << "done; weights and state: " << checkpoint << ", best (top1 " << result.best_top1
              << " %): " << (options.log_dir / "best.pt").string() << "\n";
    return kOk;
  }
  std::cerr << "iabn: interrupted; the state is saved. To continue:\n  iabn train " << arguments.config << " "
            << arguments.data << " --log-dir " << arguments.log_dir << " --resume " << checkpoint
            << (arguments.epochs ? " --epochs " + std::to_string(*arguments.epochs) : "") << "\n";
  return 128 + result.interrupted_by;
}

}  // namespace

void add_train(CLI::App& app, Run& run) {
  auto arguments = std::make_shared<Arguments>();
  train::TrainOptions& options = arguments->options;
  CLI::App* command = app.add_subcommand("train", "Train a network on an image folder or on MNIST-style idx files");
  command->add_option("CONFIG", arguments->config, "JSON configuration, see configs/")->required();
  command
      ->add_option("DATA", arguments->data,
                   "Folder with train/CLASS/ and val/CLASS/ images, or with idx files (plain or .gz)")
      ->required();
  command->add_option("--log-dir", arguments->log_dir,
                      "Folder for checkpoint.pt, best.pt and log.csv; by default runs/NAME for NAME.json");
  command->add_option("--resume", arguments->resume, "Continue from this snapshot (checkpoint.pt)");
  command->add_option("--epochs", arguments->epochs, "Train to this epoch instead of optimizer.schedule.epochs")
      ->check(CLI::PositiveNumber);
  command->add_option("--workers", options.workers, "Threads that prepare data")
      ->capture_default_str()
      ->check(CLI::NonNegativeNumber);
  command->add_option("--print-frequency", options.print_frequency, "Steps between two lines where stdout is a file")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  command->add_option("--device", options.device, "auto, cpu, cuda or cuda:N")->capture_default_str();
  command->add_option("--threads", arguments->threads, "Threads for the computation on the CPU; by default all cores")
      ->check(CLI::PositiveNumber);
  command->callback([arguments, &run] { run = [arguments] { return run_train(*arguments); }; });
}

}  // namespace iabn::cli
