// iabn bench loader: images per second and processor time per image of the training loader on a folder of images, with
// no network behind it. benchmarks/compare_loader.py runs it beside torchvision.

#include <chrono>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include <sys/resource.h>
#include <CLI/CLI.hpp>

#include "cli/bench_support.h"
#include "cli/checks.h"
#include "cli/commands.h"
#include "iabn/data/dataset.h"
#include "iabn/data/loader.h"
#include "iabn/train/atomic_file.h"
#include "iabn/train/device.h"

namespace iabn::cli {
namespace {

struct Arguments {
  std::string data, csv;
  std::vector<int64_t> workers = {1};
  int64_t batch_size = 32, rounds = 5, epochs = 1;
  bool jitter = false;
  data::InputOptions input;
  data::LoaderOptions loader;
};

// Of all threads of this process, in seconds.
double processor_time() {
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_usec);
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

struct Round {
  double images_per_second = 0;
  double cpu_ms_per_image = 0;
};

Round run_round(data::Loader& loader, int64_t first_epoch, int64_t epochs) {
  const double cpu = processor_time();
  const auto begin = std::chrono::steady_clock::now();
  int64_t images = 0;
  for (int64_t epoch = first_epoch; epoch < first_epoch + epochs; ++epoch) {
    loader.start_epoch(epoch);
    while (const auto batch = loader.next()) images += batch->images.size(0);
  }
  const double wall = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  return {static_cast<double>(images) / wall, 1e3 * (processor_time() - cpu) / static_cast<double>(images)};
}

int run_bench_loader(Arguments arguments) {
  arguments.input.color_jitter_train = arguments.input.lighting_train = arguments.jitter;
  const auto dataset = data::open_dataset(arguments.data, data::Split::train, arguments.input);
  arguments.loader.batch_size = std::min(arguments.batch_size, dataset->size());
  arguments.loader.drop_last = false;
  if (!arguments.csv.empty()) train::check_replaceable(arguments.csv);
  warn_if_busy();
  std::printf("%s, %ld images, batches of %ld; median (p20 - p80) of %ld rounds\n", cpu_model().c_str(),
              dataset->size(), arguments.loader.batch_size, arguments.rounds);
  const std::string side = std::to_string(arguments.input.crop_train);
  const std::string shape = std::to_string(arguments.loader.batch_size) + "x3x" + side + "x" + side;
  const std::string layout = arguments.loader.channels_last ? "channels_last" : "contiguous";
  const std::string pass = arguments.jitter ? "crop_flip_jitter_lighting" : "crop_flip";
  CsvRows rows(describe_machine(c10::kCPU), "loader");
  for (const int64_t workers : arguments.workers) {
    arguments.loader.workers = workers;
    data::Loader loader(data::image_samples(dataset, arguments.input, data::Split::train), arguments.loader);
    run_round(loader, 0, 1);  // reads the files into the system's cache
    std::vector<double> speed, cpu;
    for (int64_t i = 0; i < arguments.rounds; ++i) {
      const Round round = run_round(loader, 1 + i * arguments.epochs, arguments.epochs);
      speed.push_back(round.images_per_second);
      cpu.push_back(round.cpu_ms_per_image);
    }
    const Spread s = spread(speed), c = spread(cpu);
    std::printf("%ld workers: %7.1f images/s (%.1f - %.1f), %.3f ms of processor time per image (%.3f - %.3f)\n",
                workers, s.p50, s.p20, s.p80, c.p50, c.p20, c.p80);
    std::fflush(stdout);
    rows.set_device(cpu_model() + " (" + std::to_string(workers) + (workers == 1 ? " worker)" : " workers)"));
    const std::string variant = arguments.input.scaled_decode ? "iabn scaled_decode" : "iabn";
    rows.add(variant, shape, "float32", layout, pass, "speed", s, "images/s");
    rows.add(variant, shape, "float32", layout, pass, "cpu", c, "ms/image");
  }
  if (!arguments.csv.empty()) rows.write(arguments.csv);
  return kOk;
}

}  // namespace

void add_bench_loader(CLI::App& app, Run& run) {
  auto arguments = std::make_shared<Arguments>();
  CLI::App* command = app.add_subcommand("loader", "Speed of the training loader on a folder of images");
  command->add_option("DATA", arguments->data, "Folder with train/CLASS/ images, or with idx files")->required();
  command
      ->add_option("--workers", arguments->workers, "Threads that prepare images; several numbers: one after another")
      ->delimiter(',')
      ->capture_default_str()
      ->check(at_least(0));
  command->add_option("--crop", arguments->input.crop_train, "Side of the random resized crop")
      ->capture_default_str()
      ->check(at_least(1));
  command->add_flag("--jitter", arguments->jitter, "Colour jitter and lighting as well");
  command->add_flag("--scaled", arguments->input.scaled_decode, "Scaled decoding (input.scaled_decode)");
  command->add_flag("--channels-last", arguments->loader.channels_last, "Memory format of the batches");
  command->add_option("--batch-size", arguments->batch_size, "At most the number of images")
      ->capture_default_str()
      ->check(at_least(1));
  command->add_option("--epochs", arguments->epochs, "Passes over the images in each round")
      ->capture_default_str()
      ->check(at_least(1));
  command->add_option("--rounds", arguments->rounds, "Timed rounds")->capture_default_str()->check(at_least(1));
  command->add_option("--csv", arguments->csv, "Write the rows to this file");
  command->callback([arguments, &run] { run = [arguments] { return run_bench_loader(*arguments); }; });
}

}  // namespace iabn::cli
