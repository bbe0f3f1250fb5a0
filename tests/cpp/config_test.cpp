// The configuration: defaults, every message, and the learning-rate schedules by hand.

#include <cmath>
#include <filesystem>
#include <fstream>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "iabn/models/nearest.h"
#include "iabn/train/config.h"
#include "iabn/train/schedule.h"
#include "tests/cpp/train_support.h"

namespace iabn::train {
namespace {

using nlohmann::json;
using test::TemporaryFolder;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::StartsWith;

// The smallest configuration that this version accepts.
json small() { return {{"network", {{"arch", "preact_resnet8"}}}}; }

std::string error_of(const json& config) {
  try {
    parse_config(config);
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "no error";
}

std::string error_with(const char* pointer, const json& value) {
  json config = small();
  config[json::json_pointer(pointer)] = value;
  return error_of(config);
}

TEST(Config, DefaultsAreThoseOfTheSchema) {
  const Config config = parse_config(small());
  EXPECT_EQ(config.network.activation, "relu");
  EXPECT_EQ(config.network.bn_mode, "standard");
  EXPECT_EQ(config.network.classes, 1000);
  EXPECT_EQ(config.network.weight_init, "xavier_normal");
  EXPECT_EQ(config.optimizer.batch_size, 256);
  EXPECT_EQ(config.optimizer.type, "SGD");
  EXPECT_EQ(config.optimizer.clip, 1.0);
  EXPECT_EQ(config.optimizer.weight_decay, 1e-4);
  EXPECT_EQ(config.optimizer.classifier_lr, -1);
  EXPECT_EQ(config.optimizer.schedule.type, "constant");
  EXPECT_EQ(config.optimizer.schedule.epochs, 10);
  EXPECT_EQ(config.input.crop_train, 224);
  EXPECT_EQ(config.input.scale_val, 256);
  EXPECT_EQ(config.input.channels, 3);
  EXPECT_EQ(config.seed, 0);
}

TEST(Config, TheDefaultArchitectureIsResNet101) { EXPECT_EQ(parse_config(json::object()).network.arch, "resnet101"); }

TEST(Config, WritingAndReadingGivesTheSame) {
  json config = small();
  config["network"]["dilation"] = 1;
  config["optimizer"] = {{"schedule", {{"type", "multistep"}, {"params", {{"milestones", {3, 5}}, {"gamma", 0.2}}}}}};
  const json once = to_json(parse_config(config));
  EXPECT_EQ(to_json(parse_config(once)), once);
  EXPECT_EQ(once["optimizer"]["schedule"]["params"]["milestones"], json({3, 5}));
}

json with_arch(const char* arch, const char* key, const json& value) {
  return {{"network", {{"arch", arch}, {key, value}}}};
}

TEST(Config, EveryFormOfDilationIsReadAndWritten) {
  const auto round_trip = [](const char* arch, const json& dilation) {
    const json written = to_json(parse_config(with_arch(arch, "dilation", dilation)));
    EXPECT_EQ(written["network"]["dilation"], dilation);
    EXPECT_EQ(to_json(parse_config(written)), written);
  };
  round_trip("resnet101", 1);
  round_trip("resnet101", {1, 1, 2, 4});
  round_trip("densenet121", {1, 1, 1, 2});
  round_trip("resnext50", {1, 1, json({1, 2, 1, 2, 1, 2}), json({4, 8, 16})});
  round_trip("wider_resnet38_a2", true);
  round_trip("wider_resnet38", {1, 1, 2, 4});  // without effect, see docs/configuration.md
}

TEST(Config, DilationsThatANetworkCannotHaveAreNamed) {
  const auto error = [](const char* arch, const json& dilation) {
    return error_of(with_arch(arch, "dilation", dilation));
  };
  EXPECT_EQ(error("resnet50", {1, 1, 2}),
            "network.dilation: resnet50 takes one number, or one for each of its 4 modules, got a list of 3");
  EXPECT_EQ(error("resnet50", {1, 1, 2, 0}), "network.dilation: must be at least 1, got 0");
  EXPECT_EQ(
      error("resnet50", {1, 1, json({2}), 4}),
      "network.dilation: module 3 of resnet50 takes one number, not a list: only resnext* have a dilation for each "
      "block");
  EXPECT_EQ(error("resnet50", true), "network.dilation: resnet50 takes a number or a list, not true or false");
  EXPECT_EQ(error("resnext50", {1, 1, json({2, 4}), 4}),
            "network.dilation: module 3 of resnext50 has 6 blocks, got 2 numbers");
  EXPECT_EQ(error("cifar_resnet20", 2), "network.dilation: cifar_resnet20 has no dilation, so it must be 1, got 2");
  EXPECT_EQ(error("wider_resnet38", true),
            "network.dilation: wider_resnet38 has no dilation, so it must be 1, got true");
  EXPECT_EQ(error("resnext50", {1, 1, json({2, "x"}), 4}),
            "network.dilation[2][1]: must be an integer, got \"x\" (string)");
}

TEST(Config, OptionsOfOtherNetworksAreNamed) {
  EXPECT_EQ(
      error_of(with_arch("resnet50", "input_3x3", true)),
      "network.input_3x3: resnet50 begins with a 7x7 convolution always; input_3x3 is for resnext* and densenet*");
  for (const char* arch : {"resnext50", "densenet121", "wider_resnet38", "wider_resnet38_a2", "preact_resnet8"}) {
    EXPECT_EQ(error_of(with_arch(arch, "input_3x3", true)), "no error") << arch;
  }
  EXPECT_EQ(error_of(with_arch("resnet50", "width", 16)),
            "network.width: is for preact_resnet* only; the channels of resnet50 are fixed");
}

TEST(Config, UnknownKeysAreNamedWithTheNearest) {
  EXPECT_THAT(error_with("/network/actvation", "relu"),
              StartsWith("network.actvation: unknown key (did you mean \"activation\"?); known here: arch, "));
  EXPECT_THAT(error_with("/optimiser", json::object()),
              HasSubstr("optimiser: unknown key (did you mean \"optimizer\"?)"));
  EXPECT_THAT(error_with("/optimizer/schedule/params/stepsize", 3),
              HasSubstr("optimizer.schedule.params.stepsize: unknown key (did you mean \"step_size\"?)"));
  EXPECT_THAT(error_with("/input/crop_tran", 28),
              HasSubstr("input.crop_tran: unknown key (did you mean \"crop_train\"?)"));
  EXPECT_THAT(error_with("/network/zzzzzzzz", 1), HasSubstr("network.zzzzzzzz: unknown key; known here: arch, "));
}

TEST(Config, WrongTypesAreNamed) {
  EXPECT_EQ(error_with("/network/classes", "10"), "network.classes: must be an integer, got \"10\" (string)");
  EXPECT_EQ(error_with("/network/classes", 10.5), "network.classes: must be an integer, got 10.5 (number)");
  EXPECT_EQ(error_with("/network/arch", 8), "network.arch: must be a string, got 8 (integer)");
  EXPECT_EQ(error_with("/optimizer/nesterov", 1), "optimizer.nesterov: must be true or false, got 1 (integer)");
  EXPECT_EQ(error_with("/optimizer/learning_rate", "fast"),
            "optimizer.learning_rate: must be a number, got \"fast\" (string)");
  EXPECT_EQ(error_with("/optimizer", 3), "optimizer: must be an object {...}, got 3 (integer)");
  EXPECT_EQ(error_with("/input/mean", 0.5), "input.mean: must be a list [...], got 0.5 (number)");
  EXPECT_EQ(error_with("/input/mean", {0.5, "x", 0.5}), "input.mean[1]: must be a number, got \"x\" (string)");
  EXPECT_EQ(error_with("/network/dilation", {1, true}), "network.dilation[1]: must be an integer, got true (boolean)");
}

TEST(Config, ValuesOutOfRangeAreNamed) {
  EXPECT_EQ(error_with("/network/classes", 0), "network.classes: must be at least 1, got 0");
  EXPECT_EQ(error_with("/optimizer/batch_size", 0), "optimizer.batch_size: must be at least 1, got 0");
  EXPECT_THAT(error_with("/optimizer/learning_rate", -1), HasSubstr("optimizer.learning_rate: must be 0 or more"));
  EXPECT_THAT(error_with("/optimizer/type", "sgd"),
              HasSubstr("optimizer.type: must be one of SGD, Adam, got \"sgd\" (did you mean \"SGD\"?)"));
  EXPECT_THAT(error_with("/network/weight_init", "xavier"), HasSubstr("must be one of xavier_normal"));
  EXPECT_THAT(error_with("/network/dilation", 2), HasSubstr("network.dilation: preact_resnet8 has no dilation"));
  EXPECT_THAT(error_with("/input/crop_train", 0), HasSubstr("crop_train"));
  EXPECT_THAT(error_with("/input/std", {0.2, 0.2}), HasSubstr("std"));
  EXPECT_EQ(error_with("/seed", -1), "seed: must be at least 0, got -1");
}

TEST(Config, WhatCannotBeTrainedInPlaceIsRefusedByTrainingAlone) {
  const auto refusal = [](const char* bn_mode, const char* activation, double param) -> std::string {
    json config = small();
    config["network"]["bn_mode"] = bn_mode;
    config["network"]["activation"] = activation;
    config["network"]["activation_param"] = param;
    const Config parsed = parse_config(config);  // iabn validate takes all of them
    try {
      check_trainable(parsed);
    } catch (const ConfigError& error) {
      return error.what();
    }
    return "";
  };
  EXPECT_THAT(refusal("inplace", "relu", 0.01), HasSubstr("network.activation: relu cannot be inverted"));
  EXPECT_THAT(refusal("sync", "relu", 0.01), HasSubstr("bn_mode sync cannot train it"));
  EXPECT_THAT(refusal("inplace", "leaky_relu", 0), HasSubstr("network.activation_param: must be above 0"));
  EXPECT_THAT(refusal("sync", "elu", -1), HasSubstr("network.activation_param: must be above 0"));
  EXPECT_EQ(refusal("inplace", "leaky_relu", 0.01), "");
  EXPECT_EQ(refusal("inplace", "identity", 0), "");
  EXPECT_EQ(refusal("standard", "relu", 0), "");
}

TEST(Config, NamesAreCheckedAcrossKeys) {
  EXPECT_THAT(error_with("/network/gamma", "legacy"), HasSubstr("network.gamma: \"legacy\" needs bn_mode inplace"));
  EXPECT_THAT(error_with("/network/arch", "preact_resnet9"), HasSubstr("did you mean \"preact_resnet8\"?"));
}

TEST(Config, SchedulesNameTheParameterTheyMiss) {
  EXPECT_EQ(error_with("/optimizer/schedule/type", "step"),
            "optimizer.schedule.params.step_size: is required by the schedule type step");
  EXPECT_THAT(error_with("/optimizer/schedule/type", "linear"), HasSubstr("params.alpha: is required"));
  EXPECT_THAT(error_with("/optimizer/schedule/type", "multistep"), HasSubstr("params.milestones: is required"));
  EXPECT_THAT(error_with("/optimizer/schedule/type", "exponential"), HasSubstr("params.gamma: is required"));
  EXPECT_THAT(error_with("/optimizer/schedule/type", "cosinus"), HasSubstr("must be one of constant, step"));
}

TEST(Config, SegmentationRefusesWhatNoEvaluationCanDo) {
  const auto error_of = [](const nlohmann::json& segmentation) {
    try {
      parse_config({{"task", "segmentation"}, {"segmentation", segmentation}});
    } catch (const ConfigError& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  EXPECT_EQ(error_of({{"classes", {"a", "b"}}, {"window", 32}, {"scale_train", {0.01, 16}}}), "");
  for (const int64_t window : {-1, 1, 31}) {
    EXPECT_EQ(error_of({{"classes", {"a"}}, {"window", window}}),
              "segmentation.window: must be 0 (whole pictures) or at least 32, got " + std::to_string(window));
  }
  for (const auto& range : std::vector<std::vector<double>>{{0.001, 1}, {1, 17}, {2, 1}, {1}, {}}) {
    EXPECT_EQ(error_of({{"classes", {"a"}}, {"scale_train", range}}),
              "segmentation.scale_train: must be [lowest, highest] within 0.01 to 16");
  }
  EXPECT_EQ(error_of({{"classes", {"a", "b", "a"}}}), "segmentation.classes[2]: \"a\" is the name of two classes");
  EXPECT_EQ(error_of({{"classes", {"a", ""}}}), "segmentation.classes[1]: must be a name, got an empty one");
}

TEST(Config, FilesThatAreNotJsonSayWhere) {
  const TemporaryFolder folder("broken_config");
  const auto path = folder.path() / "config.json";
  std::ofstream(path) << "{\"network\": {\"arch\": }}";
  try {
    load_config(path);
    FAIL() << "no error";
  } catch (const ConfigError& error) {
    EXPECT_THAT(error.what(), AllOf(StartsWith(path.string() + ": "), HasSubstr("line 1, column 22")));
  }
  EXPECT_THROW(load_config(path.string() + ".missing"), ConfigError);
  EXPECT_THROW(load_config(folder.path()), ConfigError);
}

TEST(Config, TheDemoConfigurationIsRead) {
  const Config config = load_config("configs/fashion_mnist_demo.json");
  EXPECT_EQ(config.network.bn_mode, "inplace");
  EXPECT_EQ(config.network.classes, 10);
}

TEST(Config, TheRecipesOfCamVidDifferInTheNormAlone) {
  Config in_place = load_config("configs/camvid/resnet18_inplace.json");
  EXPECT_EQ(in_place.network.classes, 11);
  in_place.network.bn_mode = "standard";
  EXPECT_EQ(to_json(in_place), to_json(load_config("configs/camvid/resnet18_standard.json")));
}

ScheduleConfig schedule(const char* type, const char* mode, double gamma) {
  ScheduleConfig result;
  result.type = type;
  result.mode = mode;
  result.params.gamma = gamma;
  return result;
}

TEST(Schedule, ValuesByHand) {
  EXPECT_EQ(schedule_factor(schedule("constant", "epoch", 0.1), {7, 700}), 1.0);
  ScheduleConfig step = schedule("step", "epoch", 0.1);
  step.params.step_size = 30;
  EXPECT_DOUBLE_EQ(schedule_factor(step, {29, 0}), 1.0);
  EXPECT_DOUBLE_EQ(schedule_factor(step, {30, 0}), 0.1);
  EXPECT_DOUBLE_EQ(schedule_factor(step, {89, 0}), 0.01);
  ScheduleConfig multistep = schedule("multistep", "epoch", 0.5);
  multistep.params.milestones = {2, 4};
  EXPECT_DOUBLE_EQ(schedule_factor(multistep, {1, 0}), 1.0);
  EXPECT_DOUBLE_EQ(schedule_factor(multistep, {2, 0}), 0.5);
  EXPECT_DOUBLE_EQ(schedule_factor(multistep, {9, 0}), 0.25);
  EXPECT_DOUBLE_EQ(schedule_factor(schedule("exponential", "epoch", 0.9), {2, 99}), 0.81);
}

TEST(Schedule, ModeStepCountsStepsOfTheWholeRun) {
  EXPECT_DOUBLE_EQ(schedule_factor(schedule("exponential", "step", 0.9), {2, 3}), 0.729);
  ScheduleConfig linear = schedule("linear", "step", 0);
  linear.params.alpha = -2.222e-6;
  linear.params.beta = 1.0;
  EXPECT_DOUBLE_EQ(schedule_factor(linear, {0, 0}), 1.0);
  EXPECT_DOUBLE_EQ(schedule_factor(linear, {0, 225000}), 1.0 - 0.49995);
  EXPECT_EQ(schedule_factor(linear, {0, 1000000}), 0.0) << "below 0 the optimiser would climb";
}

TEST(Schedule, CosineEndsAtZeroAndWarmUpRisesStepByStep) {
  ScheduleConfig cosine = schedule("cosine", "epoch", 0);
  cosine.epochs = 10;
  EXPECT_DOUBLE_EQ(schedule_factor(cosine, {0, 0, 100}), 1.0);
  EXPECT_DOUBLE_EQ(schedule_factor(cosine, {5, 500, 100}), 0.5);
  EXPECT_NEAR(schedule_factor(cosine, {10, 1000, 100}), 0.0, 1e-15);
  cosine.mode = "step";
  EXPECT_DOUBLE_EQ(schedule_factor(cosine, {2, 250, 100}), 0.5 * (1 + std::sqrt(0.5)));
  ScheduleConfig constant = schedule("constant", "epoch", 0);
  constant.warmup_epochs = 0.5;
  EXPECT_DOUBLE_EQ(schedule_factor(constant, {0, 0, 100}), 1.0 / 50);
  EXPECT_DOUBLE_EQ(schedule_factor(constant, {0, 24, 100}), 0.5);
  EXPECT_DOUBLE_EQ(schedule_factor(constant, {0, 49, 100}), 1.0);
  EXPECT_DOUBLE_EQ(schedule_factor(constant, {3, 300, 100}), 1.0);
}

TEST(Nearest, FindsTypingErrorsAndNothingElse) {
  EXPECT_EQ(nearest("trian", {"train", "bench", "doctor"}), "train");
  EXPECT_EQ(nearest("SGDD", {"SGD", "Adam"}), "SGD");
  EXPECT_EQ(nearest("quux", {"train", "bench", "doctor"}), "");
  EXPECT_EQ(nearest("x", {}), "");
}

}  // namespace
}  // namespace iabn::train
