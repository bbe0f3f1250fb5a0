// Training, snapshots and the memory meter, on a data set small enough to train in seconds.

#include <filesystem>
#include <fstream>
#include <string>
#include <thread>

#include <gmock/gmock.h>
#include <torch/torch.h>

#include "iabn/data/error.h"
#include "iabn/io/pytorch.h"
#include "iabn/train/build.h"
#include "iabn/train/csv_log.h"
#include "iabn/train/memory_meter.h"
#include "iabn/train/snapshot.h"
#include "iabn/train/trainer.h"
#include "tests/cpp/train_support.h"

namespace iabn::train {
namespace {

namespace fs = std::filesystem;
using testing::AllOf;
using testing::HasSubstr;

// A grey image of 8 rows and columns.
constexpr unsigned char kPng[] = {
    0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a, 0x00, 0x00, 0x00, 0x0d, 0x49, 0x48, 0x44, 0x52, 0x00, 0x00, 0x00,
    0x08, 0x00, 0x00, 0x00, 0x08, 0x08, 0x00, 0x00, 0x00, 0x00, 0xe1, 0x64, 0xe1, 0x57, 0x00, 0x00, 0x00, 0x24, 0x49,
    0x44, 0x41, 0x54, 0x78, 0xda, 0x63, 0xd0, 0x80, 0x02, 0x06, 0x1b, 0x28, 0x60, 0x08, 0x80, 0x02, 0x86, 0x14, 0x28,
    0x60, 0xa8, 0x80, 0x02, 0x86, 0x1e, 0x28, 0x60, 0x58, 0x00, 0x05, 0x0c, 0x5b, 0xa0, 0x00, 0x00, 0xf2, 0x26, 0x1b,
    0x81, 0xe5, 0x64, 0x1d, 0x5c, 0x00, 0x00, 0x00, 0x00, 0x49, 0x45, 0x4e, 0x44, 0xae, 0x42, 0x60, 0x82,
};

void write_png(const fs::path& path, size_t bytes = sizeof kPng) {
  std::ofstream(path, std::ios::binary).write(reinterpret_cast<const char*>(kPng), static_cast<std::streamsize>(bytes));
}

// The same image everywhere, so only its order and flips tell one run from another.
void write_png_folder(const fs::path& folder) {
  for (const char* name : {"train/a", "train/b", "train/c", "val/a", "val/b", "val/c"}) {
    fs::create_directories(folder / name);
    for (int i = 0; i < 20; ++i) write_png(folder / name / (std::to_string(i) + ".png"));
  }
}

class Training : public testing::Test {
 protected:
  Training() : folder_("train_test"), data_(folder_.path() / "data") { test::write_idx_dataset(data_, 192, 40); }

  TrainOptions options(const char* run) const {
    TrainOptions result;
    result.data = data_;
    result.log_dir = folder_.path() / run;
    result.device = "cpu";
    return result;
  }

  static TrainResult run(Config config, const TrainOptions& options, int64_t epochs) {
    config.optimizer.schedule.epochs = epochs;
    return train::train(config, options);
  }

  test::TemporaryFolder folder_;
  fs::path data_;
};

TEST_F(Training, LearnsAndLogs) {
  const TrainOptions run_options = options("learns");
  const TrainResult result = run(test::small_config("inplace"), run_options, 3);
  EXPECT_EQ(result.interrupted_by, 0);
  EXPECT_GT(result.best_score, 80);  // chance is 33
  EXPECT_NEAR(last_validation_accuracy(run_options.log_dir / "log.csv"), result.score, 1e-3);
  EXPECT_TRUE(fs::exists(run_options.log_dir / "model_best.pth.tar"));
}

TEST_F(Training, ResumedRunEqualsStraightRunBitForBit) {
  for (const char* optimizer : {"SGD", "Adam"}) {
    SCOPED_TRACE(optimizer);
    Config config = test::small_config("inplace");
    config.optimizer.type = optimizer;
    config.optimizer.learning_rate = 0.01;
    config.optimizer.classifier_lr = 0.02;
    const TrainOptions straight = options((std::string("straight") + optimizer).c_str());
    TrainOptions resumed = options((std::string("resumed") + optimizer).c_str());
    run(config, straight, 2);
    run(config, resumed, 1);
    resumed.resume = resumed.log_dir / "checkpoint.pth.tar";
    run(config, resumed, 2);
    test::expect_same_snapshot(straight.log_dir / "checkpoint.pth.tar", resumed.log_dir / "checkpoint.pth.tar");
    EXPECT_EQ(test::log_without_seconds(straight.log_dir), test::log_without_seconds(resumed.log_dir));
  }
}

TEST_F(Training, ResumedRunEqualsStraightRunWithAveragesAccumulationAndBf16) {
  Config config = test::small_config("inplace");
  config.precision = "bf16";
  config.optimizer.ema_decay = 0.9;
  config.optimizer.accumulation_steps = 2;
  config.optimizer.label_smoothing = 0.1;
  config.optimizer.schedule.warmup_epochs = 1.5;
  const TrainOptions straight = options("straight_all");
  TrainOptions resumed = options("resumed_all");
  EXPECT_GT(run(config, straight, 3).score, 60);  // chance is 33
  run(config, resumed, 1);
  resumed.resume = resumed.log_dir / kCheckpointName;
  run(config, resumed, 3);
  test::expect_same_snapshot(straight.log_dir / kCheckpointName, resumed.log_dir / kCheckpointName);
  EXPECT_EQ(test::log_without_seconds(straight.log_dir), test::log_without_seconds(resumed.log_dir));
}

TEST_F(Training, EvaluateAloneGivesTheRunsLastFigureAndWritesNoSnapshot) {
  TrainOptions run_options = options("evaluate");
  const Config config = test::small_config("inplace");
  const TrainResult trained = run(config, run_options, 2);
  run_options.resume = run_options.log_dir / kCheckpointName;
  run_options.log_dir = folder_.path() / "evaluate_again";
  run_options.evaluate_only = true;
  EXPECT_DOUBLE_EQ(run(config, run_options, 2).score, trained.score);
  EXPECT_FALSE(fs::exists(run_options.log_dir / kCheckpointName));
  run_options.resume.reset();
  EXPECT_THROW(run(config, run_options, 2), SnapshotError);
  run_options.resume_auto = true;  // not random weights
  EXPECT_THROW(run(config, run_options, 2), SnapshotError);
}

TEST_F(Training, AnotherConfigurationGoesOnWhereAskedAndSaysWhatDiffers) {
  TrainOptions run_options = options("any_config");
  Config config = test::small_config("inplace");
  run(config, run_options, 1);
  run_options.resume = run_options.log_dir / kCheckpointName;
  run_options.any_config = true;
  config.optimizer.learning_rate = 0.05;
  testing::internal::CaptureStdout();
  EXPECT_EQ(run(config, run_options, 2).interrupted_by, 0);
  EXPECT_THAT(testing::internal::GetCapturedStdout(), HasSubstr("optimizer.learning_rate is 0.1 there, 0.05 here"));
}

TEST_F(Training, SavesWithinAnEpochWhereAsked) {
  TrainOptions run_options = options("minutes");
  run_options.snapshot_minutes = 1e-9;  // after every step
  run(test::small_config("inplace"), run_options, 1);
  EXPECT_TRUE(fs::exists(run_options.log_dir / kCheckpointName));
}

TEST_F(Training, CudaGraphsWithoutAGpuAreRefused) {
  Config config = test::small_config("inplace");
  config.cuda_graph = true;
  EXPECT_THROW(run(config, options("graph"), 1), ConfigError);
}

TEST_F(Training, ARunThatExistsIsNotOverwritten) {
  const TrainOptions run_options = options("exists");
  run(test::small_config("inplace"), run_options, 1);
  try {
    run(test::small_config("inplace"), run_options, 1);
    FAIL() << "no error";
  } catch (const SnapshotError& error) {
    EXPECT_THAT(error.what(), AllOf(HasSubstr("exists: add --resume"), HasSubstr("or choose another --log-dir")));
  }
}

TEST_F(Training, SnapshotsOfAnotherConfigurationAreRefusedByKey) {
  TrainOptions run_options = options("other");
  const Config config = test::small_config("inplace");
  run(config, run_options, 1);
  run_options.resume = run_options.log_dir / "checkpoint.pth.tar";
  const auto refusal = [&](const Config& other) -> std::string {
    try {
      run(other, run_options, 2);
    } catch (const SnapshotError& error) {
      return error.what();
    }
    return "no error";
  };
  Config other = config;
  other.network.width = 8;
  other.optimizer.learning_rate = 1;
  EXPECT_THAT(refusal(other), HasSubstr("another configuration: network.width is 4 there, 8 here"));
  other = config;
  other.network.bn_mode = "standard";
  EXPECT_THAT(refusal(other), HasSubstr("network.bn_mode is \"inplace\" there, \"standard\" here"));
  other = config;
  other.optimizer.momentum = 0.5;
  EXPECT_THAT(refusal(other), HasSubstr("optimizer.momentum is 0.9 there, 0.5 here"));
  test::write_idx_dataset(data_, 160, 40);
  EXPECT_THAT(refusal(config), HasSubstr("was trained on 192 images, the folder holds 160"));
}

TEST_F(Training, DamagedSnapshotsGiveAClearError) {
  TrainOptions run_options = options("damaged");
  const Config config = test::small_config("inplace");
  run(config, run_options, 1);
  const fs::path good = run_options.log_dir / "checkpoint.pth.tar", bad = folder_.path() / "bad.pt";
  run_options.resume = bad;
  const auto error_text = [&]() -> std::string {
    try {
      run(config, run_options, 2);
    } catch (const SnapshotError& error) {
      return error.what();
    }
    return "no error";
  };
  EXPECT_THAT(error_text(), HasSubstr("bad.pt: there is no such file"));
  const auto size = fs::file_size(good);
  for (const auto kept : {size - 1, size / 2, size / 100, decltype(size){0}}) {
    fs::copy_file(good, bad, fs::copy_options::overwrite_existing);
    fs::resize_file(bad, kept);
    EXPECT_THAT(error_text(), HasSubstr("bad.pt: ")) << kept;
  }
  std::ofstream(bad, std::ios::binary) << io::pytorch_bytes(io::Dict{});
  EXPECT_THAT(error_text(), HasSubstr("bad.pt: is not a snapshot of iabn"));
}

TEST_F(Training, DivergenceStopsTheRun) {
  Config config = test::small_config("standard");
  config.optimizer.learning_rate = 1e30;
  config.optimizer.clip = 0;
  try {
    run(config, options("diverges"), 3);
    FAIL() << "no error";
  } catch (const DivergedError& error) {
    EXPECT_THAT(error.what(), AllOf(HasSubstr("training has diverged"), HasSubstr("optimizer.learning_rate"),
                                    testing::Not(HasSubstr("last snapshot"))));
  }
  EXPECT_FALSE(fs::exists(options("diverges").log_dir / "checkpoint.pth.tar"));
}

// The loss of a run's only step comes from before it: the weights that it spoils show in the evaluation or at saving.
TEST_F(Training, WeightsThatAreNotFiniteAreNotSaved) {
  test::write_idx_dataset(data_, 16, 40);
  Config config = test::small_config("standard");
  config.optimizer.learning_rate = 1e38;
  config.optimizer.clip = 0;
  EXPECT_THROW(run(config, options("spoilt"), 1), DivergedError);
  EXPECT_FALSE(fs::exists(options("spoilt").log_dir / "checkpoint.pth.tar"));
  EXPECT_FALSE(fs::exists(options("spoilt").log_dir / "model_best.pth.tar"));
}

TEST_F(Training, ACorruptImageCostsNoFinishedStepAndTheResumedRunIsTheSame) {
  const Config config = test::small_config("inplace");
  TrainOptions straight = options("straight_png");
  straight.data = folder_.path() / "png";
  write_png_folder(straight.data);
  run(config, straight, 2);
  // In different steps of an epoch, the first one, too, and in the evaluation.
  for (const char* name : {"train/a/5.png", "train/b/3.png", "train/c/9.png", "train/c/14.png", "val/b/3.png"}) {
    const bool begun = name != std::string("train/a/5.png");
    SCOPED_TRACE(name);
    TrainOptions stopped = options((std::string("stopped/") + name).c_str());
    stopped.data = straight.data;
    const std::string checkpoint = (stopped.log_dir / "checkpoint.pth.tar").string();
    write_png(stopped.data / name, 50);
    try {
      run(config, stopped, 2);
      ADD_FAILURE() << "no error";
    } catch (const data::DataError& error) {
      EXPECT_THAT(error.what(), AllOf(HasSubstr(name), HasSubstr(begun ? "state saved in " + checkpoint : "no step"),
                                      HasSubstr(begun ? "continue with --resume " + checkpoint : "start again")));
    }
    EXPECT_EQ(fs::exists(checkpoint), begun);
    write_png(stopped.data / name);
    stopped.resume_auto = true;
    run(config, stopped, 2);
    test::expect_same_snapshot(straight.log_dir / "checkpoint.pth.tar", checkpoint);
    EXPECT_EQ(test::log_without_seconds(straight.log_dir), test::log_without_seconds(stopped.log_dir));
  }
}

TEST_F(Training, ACorruptImageDoesNotSaveSpoiltWeights) {
  TrainOptions run_options = options("spoilt_png");
  run_options.data = folder_.path() / "png";
  write_png_folder(run_options.data);
  write_png(run_options.data / "train/c/9.png", 50);  // in the second of two batches: no loss has seen the weights yet
  Config config = test::small_config("inplace");
  config.optimizer.batch_size = 24;
  config.optimizer.learning_rate = 1e38;
  config.optimizer.weight_decay = 1e30;
  config.optimizer.clip = 0;
  try {
    run(config, run_options, 1);
    FAIL() << "no error";
  } catch (const DivergedError& error) {
    EXPECT_THAT(error.what(), HasSubstr("a weight or a running statistic is not finite in epoch 1, after 1 steps"));
  }
  EXPECT_FALSE(fs::exists(run_options.log_dir / "checkpoint.pth.tar"));
}

TEST_F(Training, CorruptImagesAreSkippedAndNamedWhereAsked) {
  TrainOptions run_options = options("skips");
  run_options.data = folder_.path() / "png";
  run_options.skip_corrupt = true;
  write_png_folder(run_options.data);
  write_png(run_options.data / "train/b/3.png", 50);
  write_png(run_options.data / "val/c/4.png", 50);
  testing::internal::CaptureStdout();
  run(test::small_config("inplace"), run_options, 2);
  EXPECT_THAT(testing::internal::GetCapturedStdout(), AllOf(HasSubstr("train/b/3.png"), HasSubstr("val/c/4.png"),
                                                            HasSubstr("corrupt images skipped so far: 2")));
}

TEST_F(Training, AnotherRunsFolderIsNotOverwrittenByAResumedRun) {
  const Config config = test::small_config("inplace");
  const TrainOptions a = options("a");
  TrainOptions b = options("b");
  run(config, a, 1);
  run(config, b, 1);
  b.resume = a.log_dir / "checkpoint.pth.tar";
  try {
    run(config, b, 2);
    FAIL() << "no error";
  } catch (const SnapshotError& error) {
    EXPECT_THAT(error.what(), HasSubstr("continue that one with --log-dir " + a.log_dir.string()));
  }
  b.log_dir = a.log_dir / "../a";  // the same folder by another name
  run(config, b, 2);
}

TEST_F(Training, TheNumberOfClassesMustFit) {
  Config config = test::small_config("inplace");
  config.network.classes = 10;
  try {
    run(config, options("classes"), 1);
    FAIL() << "no error";
  } catch (const ConfigError& error) {
    EXPECT_THAT(error.what(), AllOf(HasSubstr("network.classes: is 10"), HasSubstr("has 3 classes")));
  }
}

TEST(BuildNetwork, TheSeedDecidesTheWeights) {
  Config config = test::small_config("inplace");
  const auto a = build_network(config, torch::kCPU), b = build_network(config, torch::kCPU);
  config.seed = 1;
  const auto c = build_network(config, torch::kCPU);
  EXPECT_TRUE(torch::equal(a->parameters()[0], b->parameters()[0]));
  EXPECT_FALSE(torch::equal(a->parameters()[0], c->parameters()[0]));
}

TEST(MemoryMeterTest, CountsAllocationsFreesAndThePeak) {
  MemoryMeter meter(torch::kCPU);
  const int64_t start = meter.current();
  {
    const torch::Tensor a = torch::empty({1000}, torch::kFloat);
    EXPECT_EQ(meter.current() - start, 4000);
    {
      const torch::Tensor b = torch::empty({500}, torch::kDouble);
      EXPECT_EQ(meter.current() - start, 8000);
    }
    EXPECT_EQ(meter.current() - start, 4000);
    EXPECT_EQ(meter.peak() - start, 8000);
    meter.reset_peak();
    EXPECT_EQ(meter.peak() - start, 4000);
  }
  EXPECT_EQ(meter.current(), start);
}

TEST(MemoryMeterTest, SeesFreesOnOtherThreadsAndAfterItsEnd) {
  torch::Tensor survivor;
  {
    MemoryMeter meter(torch::kCPU);
    EXPECT_THROW(MemoryMeter second(torch::kCPU), std::logic_error);
    torch::Tensor a = torch::ones(256);
    std::thread([moved = std::move(a)]() mutable { moved.reset(); }).join();
    EXPECT_EQ(meter.current(), 0);
    survivor = torch::ones(256);
  }
  EXPECT_EQ(survivor.sum().item<float>(), 256);  // its memory outlives the meter
  MemoryMeter again(torch::kCPU);
  survivor.reset();  // not of this meter
  EXPECT_EQ(again.current(), 0);
}

// Memory is the product: a block in training holds half of what standard BatchNorm holds.
TEST(MemoryMeterTest, InPlaceNetworkHoldsAtMostFiftyFivePercent) {
  const auto held = [](const char* mode) {
    MemoryMeter meter(torch::kCPU);
    Config config = test::small_config(mode);
    config.network.width = 16;
    const auto network = build_network(config, torch::kCPU);
    const auto x = torch::randn({32, 1, 28, 28});
    const int64_t before = meter.current();
    const auto output = network->forward(x);
    return meter.current() - before;
  };
  const double ratio = static_cast<double>(held("inplace")) / static_cast<double>(held("standard"));
  EXPECT_LE(ratio, 0.55);
  EXPECT_GE(ratio, 0.45);
}

}  // namespace
}  // namespace iabn::train
