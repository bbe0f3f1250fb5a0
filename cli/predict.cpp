// iabn predict: the classes of all pixels of a folder of pictures.

#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <ATen/Parallel.h>
#include <CLI/CLI.hpp>

#include "cli/checks.h"
#include "cli/commands.h"
#include "cli/scales.h"
#include "iabn/train/interrupt.h"
#include "iabn/train/precision.h"
#include "iabn/train/predict_folder.h"

namespace iabn::cli {
namespace {

constexpr const char* kFooter =
    "Exit codes: 0 all pictures have their files, 3 bad pictures were named and left out, 1 error, 2 wrong command "
    "line or configuration, 130 or 143 interrupted. A run that was broken off goes on where it is started again, "
    "without "
    "--overwrite.";

struct Arguments {
  std::string snapshot, input, output, config, scales = "0.7,1,1.2", fusion = "mean", mode = "raw", gamma;
  int threads = 0;
  bool own_weights = false;
  train::PredictOptions options;
};

int run_predict(const Arguments& arguments) {
  train::PredictOptions options = arguments.options;
  options.snapshot = arguments.snapshot;
  options.input = arguments.input;
  options.output = arguments.output;
  if (!arguments.config.empty()) options.config = arguments.config;
  options.scales = scales_from_text(arguments.scales);
  options.fusion = segmentation::fusion_from_name(arguments.fusion);
  options.mode = train::output_mode_from_name(arguments.mode);
  options.weights.averages = !arguments.own_weights;
  if (!arguments.gamma.empty()) options.weights.gamma = io::gamma_from_name(arguments.gamma);
  if (arguments.threads > 0) at::set_num_threads(arguments.threads);
  try {
    return train::predict_folder(options).bad > 0 ? kPartly : kOk;
  } catch (const train::Interrupted& interrupted) {
    std::fprintf(stderr, "iabn: interrupted; the same command goes on with the remaining pictures%s\n",
                 options.overwrite ? " where --overwrite is left out" : "");
    return 128 + interrupted.signal;
  }
}

void add_views(CLI::App& command, Arguments& arguments) {
  train::PredictOptions& options = arguments.options;
  command
      .add_option("--scales", arguments.scales,
                  "Sizes at which the network sees a picture, relative to that of --longest-side")
      ->capture_default_str();
  command.add_flag("--flip", options.flip, "Every scale mirrored as well");
  command
      .add_option("--fusion-mode", arguments.fusion,
                  "How scales become one answer: mean of the scores, voting, or the max of the scores")
      ->capture_default_str()
      ->check(CLI::IsMember({"mean", "voting", "max"}));
  command
      .add_option("--longest-side", options.longest_side,
                  "Pictures are scaled to it for the network, and the answer back; 0: as they are; by default what the "
                  "configuration says, 2048 for the original's snapshot")
      ->check(at_least(0));
  command
      .add_option("--window", options.window,
                  "Side of half-overlapping tiles that go through the network one by one, in pixels of the scaled "
                  "picture, at least 32; 0: no tiles; by default what the configuration says, else tiles only for "
                  "pictures of more than 8388608 pixels at the largest scale")
      ->check(at_least(0));
}

void add_network(CLI::App& command, Arguments& arguments) {
  train::PredictOptions& options = arguments.options;
  command.add_option("--config", arguments.config, "JSON configuration of a snapshot that holds none");
  command
      .add_option("--gamma", arguments.gamma,
                  "How the file's norm weights count, signed or legacy; by default as the file says, else by bn_mode")
      ->check(CLI::IsMember({"signed", "legacy"}));
  command.add_flag("--own-weights", arguments.own_weights,
                   "Of a snapshot with averaged weights (ema_decay), take the others");
  command.add_option("--precision", options.precision, "float32, bf16 or fp16; by default fp16 on a GPU, else float32")
      ->check(CLI::IsMember({"float32", "bf16", "fp16"}));
  command.add_option("--device", options.device, "auto, cpu, cuda or cuda:N")->capture_default_str();
}

}  // namespace

void add_predict(CLI::App& app, Run& run) {
  auto arguments = std::make_shared<Arguments>();
  train::PredictOptions& options = arguments->options;
  CLI::App* command = app.add_subcommand("predict", "Segment a folder of pictures");
  command->footer(kFooter);
  command
      ->add_option("SNAPSHOT", arguments->snapshot,
                   "A segmentation network: a snapshot of iabn train, the original's for Mapillary Vistas, or other "
                   "weights with --config")
      ->required();
  command->add_option("IN_DIR", arguments->input, "Folder of .png, .jpg and .jpeg files; subfolders are not searched")
      ->required();
  command->add_option("OUT_DIR", arguments->output, "Folder for NAME.png, made where it is missing")->required();
  command
      ->add_option("--output-mode", arguments->mode,
                   "raw: classes as grey values; palette: in their colours; prob: raw and NAME_prob.png, the winning "
                   "score x 255; overlay: colours over the picture")
      ->capture_default_str()
      ->check(CLI::IsMember({"palette", "raw", "prob", "overlay"}));
  add_views(*command, *arguments);
  add_network(*command, *arguments);
  command->add_flag("--overwrite", options.overwrite, "Do pictures again whose files are there already");
  command->add_option("--workers", options.workers, "Threads that read pictures ahead and write answers behind")
      ->capture_default_str()
      ->check(at_least(0));
  command->add_option("--threads", arguments->threads, "Threads for the computation on the CPU; by default all cores")
      ->check(at_least(1));
  command->callback([arguments, &run] { run = [arguments] { return run_predict(*arguments); }; });
}

}  // namespace iabn::cli
