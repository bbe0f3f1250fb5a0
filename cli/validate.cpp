// iabn validate: what a checkpoint is worth on the validation images of a folder.

#include <cstdio>
#include <memory>
#include <optional>
#include <string>

#include <ATen/Parallel.h>
#include <CLI/CLI.hpp>

#include "cli/checks.h"
#include "cli/commands.h"
#include "cli/scales.h"
#include "iabn/train/interrupt.h"
#include "iabn/train/validator.h"

namespace iabn::cli {
namespace {

struct Arguments {
  std::string config, checkpoint, data, gamma, scales = "1";
  int threads = 0;
  bool own_weights = false;
  train::ValidateOptions options;
};

int run_validate(const Arguments& arguments) {
  const train::Config config = train::load_config(arguments.config);
  train::ValidateOptions options = arguments.options;
  options.checkpoint = arguments.checkpoint;
  options.data = arguments.data;
  options.scales = scales_from_text(arguments.scales);
  options.weights.averages = !arguments.own_weights;
  if (!arguments.gamma.empty()) options.weights.gamma = io::gamma_from_name(arguments.gamma);
  if (arguments.threads > 0) at::set_num_threads(arguments.threads);
  try {
    train::validate(config, options);
  } catch (const train::Interrupted& interrupted) {
    std::fprintf(stderr, "iabn: interrupted\n");
    return 128 + interrupted.signal;
  }
  return kOk;
}

}  // namespace

void add_validate(CLI::App& app, Run& run) {
  auto arguments = std::make_shared<Arguments>();
  train::ValidateOptions& options = arguments->options;
  CLI::App* command = app.add_subcommand("validate", "Accuracy of a checkpoint on a folder's images");
  command->add_option("CONFIG", arguments->config, "JSON configuration of the network and its input")->required();
  command
      ->add_option(
          "CHECKPOINT", arguments->checkpoint,
          "Weights of one of the networks of iabn models, under its names (docs/checkpoints.md): a snapshot, a "
          "PyTorch state dict, or safetensors; another activation or norm mode may have trained them")
      ->required();
  command
      ->add_option("DATA", arguments->data,
                   "Folder with val/CLASS/ images, with val/images and val/masks for segmentation, or with idx files")
      ->required();
  command->add_option("--split", options.split, "The folder of DATA to evaluate; of classes: val or train")
      ->capture_default_str();
  command->add_option("--scale", options.scale,
                      "Classification: shorter side of the images, instead of input.scale_val; -1: as it is");
  command->add_option("--crop", options.crop, "Classification: side of the crop, instead of input.crop_val")
      ->check(at_least(1));
  command->add_flag(
      "--ten-crops,--ten_crops", options.ten_crops,
      "Classification: average the logits of the four corners and the centre, and of their mirror images");
  command
      ->add_option("--scales", arguments->scales,
                   "Segmentation: sizes at which the network sees a picture; the mean of the scores counts")
      ->capture_default_str();
  command->add_flag("--flip", options.flip, "Segmentation: every scale mirrored as well");
  command->add_option("--json", options.json, "Write the result to this file as well");
  command
      ->add_option("--gamma", arguments->gamma,
                   "How the file's norm weights count, signed or legacy; by default as the file says, else by bn_mode")
      ->check(CLI::IsMember({"signed", "legacy"}));
  command->add_flag("--any-classes", options.any_classes,
                    "Go on although the snapshot's classes have other names; the differences are listed");
  command->add_flag("--own-weights", arguments->own_weights,
                    "Of a snapshot with averaged weights (ema_decay), take the others");
  command
      ->add_option("--batch-size", options.batch_size,
                   "Classification: images at a time in a process; by default its share of optimizer.batch_size, a "
                   "tenth with --ten-crops")
      ->check(at_least(1));
  command->add_option("--workers", options.workers, "Threads that prepare data")
      ->capture_default_str()
      ->check(at_least(0));
  command->add_option("--device", options.device, "auto, cpu, cuda or cuda:N")->capture_default_str();
  command->add_flag("--skip-corrupt", options.skip_corrupt, "Leave out images that cannot be decoded, and name them");
  command->add_option("--threads", arguments->threads, "Threads for the computation on the CPU; by default all cores")
      ->check(at_least(1));
  command->callback([arguments, &run] { run = [arguments] { return run_validate(*arguments); }; });
}

}  // namespace iabn::cli
