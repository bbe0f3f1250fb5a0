// What one training step is made of: optimiser, loss scaling, accumulation, averaged weights.

#include <cmath>
#include <limits>

#include <gtest/gtest.h>
#include <torch/torch.h>

#include "iabn/models/network.h"
#include "iabn/train/averaged_weights.h"
#include "iabn/train/build.h"
#include "iabn/train/optimizer.h"
#include "iabn/train/precision.h"
#include "iabn/train/step.h"
#include "tests/cpp/support.h"
#include "tests/cpp/train_support.h"

namespace iabn::train {
namespace {

using torch::Tensor;

// The same gradients for both networks.
void set_gradients(models::Network& a, models::Network& b, int64_t seed) {
  torch::manual_seed(static_cast<uint64_t>(seed));
  const auto first = a.parameters(), second = b.parameters();
  for (size_t i = 0; i < first.size(); ++i) {
    first[i].mutable_grad() = torch::randn_like(first[i]);
    second[i].mutable_grad() = first[i].grad().clone();
  }
}

void expect_same_weights(const models::Network& a, const models::Network& b, double tolerance) {
  const auto first = a.parameters(), second = b.parameters();
  for (size_t i = 0; i < first.size(); ++i) EXPECT_TRUE(torch::allclose(first[i], second[i], tolerance, tolerance));
}

TEST(TrainOptimizerTest, UpdatesAreThoseOfPyTorch) {
  for (const char* type : {"SGD", "nesterov", "plain SGD", "Adam"}) {
    SCOPED_TRACE(type);
    Config config = test::small_config("standard");
    OptimizerConfig& options = config.optimizer;
    options.clip = 0;
    options.weight_decay = 0.01;
    options.type = std::string(type) == "Adam" ? "Adam" : "SGD";
    options.nesterov = std::string(type) == "nesterov";
    if (std::string(type) == "plain SGD") options.momentum = 0;
    const auto ours = build_network(config, torch::kCPU), theirs = build_network(config, torch::kCPU);
    TrainOptimizer optimizer(options, *ours);
    std::unique_ptr<torch::optim::Optimizer> reference;
    if (options.type == "Adam") {
      reference = std::make_unique<torch::optim::Adam>(
          theirs->parameters(), torch::optim::AdamOptions(options.learning_rate).weight_decay(options.weight_decay));
    } else {
      reference =
          std::make_unique<torch::optim::SGD>(theirs->parameters(), torch::optim::SGDOptions(options.learning_rate)
                                                                        .momentum(options.momentum)
                                                                        .weight_decay(options.weight_decay)
                                                                        .nesterov(options.nesterov));
    }
    for (int step = 0; step < 4; ++step) {
      set_gradients(*ours, *theirs, step);
      optimizer.step();
      reference->step();
    }
    expect_same_weights(*ours, *theirs, 1e-5);  // four steps of a few roundings of float32 each
  }
}

TEST(TrainOptimizerTest, ClassifierHasItsOwnRateAndBothFollowTheSchedule) {
  Config config = test::small_config("standard");
  config.optimizer.learning_rate = 0.2;
  config.optimizer.classifier_lr = 0.05;
  const auto network = build_network(config, torch::kCPU);
  TrainOptimizer optimizer(config.optimizer, *network);
  optimizer.scale_learning_rates(0.5);
  ASSERT_EQ(optimizer.groups().size(), 2u);
  EXPECT_DOUBLE_EQ(optimizer.learning_rate(0), 0.1);
  EXPECT_DOUBLE_EQ(optimizer.learning_rate(1), 0.025);
  EXPECT_EQ(optimizer.groups()[1].size(), 2u);  // classifier.fc.weight and bias
}

TEST(TrainOptimizerTest, ClipBoundsTheNormOfAllGradients) {
  Config config = test::small_config("standard");
  config.optimizer.clip = 1.0;
  const auto network = build_network(config, torch::kCPU);
  TrainOptimizer optimizer(config.optimizer, *network);
  optimizer.scale_learning_rates(0);
  for (auto& parameter : network->parameters()) parameter.mutable_grad() = torch::ones_like(parameter);
  optimizer.step();
  double squares = 0;
  for (const auto& parameter : network->parameters()) squares += parameter.grad().pow(2).sum().item<double>();
  EXPECT_NEAR(std::sqrt(squares), 1.0, 1e-4);
}

TEST(LossScalerTest, AGradientThatIsNotFiniteCostsTheStepAndHalvesTheScale) {
  for (const char* type : {"SGD", "Adam"}) {
    SCOPED_TRACE(type);
    Config config = test::small_config("standard");
    config.optimizer.type = type;
    const auto network = build_network(config, torch::kCPU), untouched = build_network(config, torch::kCPU);
    TrainOptimizer optimizer(config.optimizer, *network);
    LossScaler scaler(torch::kCPU);
    set_gradients(*network, *untouched, 1);
    network->parameters()[3].grad().view(-1)[0] = std::numeric_limits<float>::infinity();
    optimizer.step(&scaler);
    expect_same_weights(*network, *untouched, 0);
    EXPECT_EQ(scaler.state()[0].item<float>(), 32768);
    if (config.optimizer.type != "Adam") continue;
    EXPECT_EQ(optimizer.state()[0][0].second.item<float>(), 0);  // "step"
  }
}

TEST(LossScalerTest, GradientsAreUnscaledBeforeTheyAreUsed) {
  Config config = test::small_config("standard");
  const auto scaled = build_network(config, torch::kCPU), plain = build_network(config, torch::kCPU);
  TrainOptimizer scaled_optimizer(config.optimizer, *scaled), plain_optimizer(config.optimizer, *plain);
  LossScaler scaler(torch::kCPU);
  set_gradients(*scaled, *plain, 1);
  for (const auto& parameter : scaled->parameters()) parameter.mutable_grad() *= 65536;
  scaled_optimizer.step(&scaler);
  plain_optimizer.step();
  expect_same_weights(*scaled, *plain, 0);  // a power of two changes no bit
}

TEST(AveragedWeightsTest, FollowTheWeightsAndSwapBack) {
  Config config = test::small_config("standard");
  const auto network = build_network(config, torch::kCPU);
  AveragedWeights averages(*network, 0.75);
  const Tensor weight = network->parameters()[0];
  const Tensor before = weight.detach().clone();
  {
    const torch::NoGradGuard no_grad;
    weight.add_(1);
  }
  averages.update();
  EXPECT_TRUE(torch::allclose(averages.named()[0].second, before + 0.25));
  {
    const UseAverages use(&averages);
    EXPECT_TRUE(torch::allclose(weight, before + 0.25));
  }
  EXPECT_TRUE(torch::allclose(weight, before + 1));
}

// The norm layers see the parts one by one, so the reference takes the same parts.
TEST(TrainStepTest, AccumulatedGradientsAreTheMeanOverTheParts) {
  Config config = test::small_config("inplace");
  config.optimizer.accumulation_steps = 4;
  config.optimizer.clip = 0;
  config.optimizer.momentum = 0;
  config.optimizer.weight_decay = 0;
  const auto network = build_network(config, torch::kCPU), reference = build_network(config, torch::kCPU);
  network->train();
  reference->train();
  MetricSums metrics(torch::kCPU);
  TrainStep step(config, *network, metrics, torch::kCPU);
  const Tensor images = torch::randn({16, 1, 8, 8}), labels = torch::randint(3, {16}, torch::kLong);
  const Tensor loss = step(images, labels);
  Tensor total = torch::zeros({});
  for (int part = 0; part < 4; ++part) {
    total = total + torch::nn::functional::cross_entropy(reference->forward(images.slice(0, 4 * part, 4 * part + 4)),
                                                         labels.slice(0, 4 * part, 4 * part + 4));
  }
  (total / 4).backward();
  {
    const torch::NoGradGuard no_grad;
    for (auto& parameter : reference->parameters()) parameter.sub_(config.optimizer.learning_rate * parameter.grad());
  }
  expect_same_weights(*network, *reference, 1e-5);
  EXPECT_NEAR(loss.item<double>(), (total / 4).item<double>(), 1e-5);
  EXPECT_EQ(metrics.values().images, 16);
  EXPECT_NEAR(metrics.values().loss, loss.item<double>(), 1e-5);
}

// On a GPU also as one CUDA graph: the same weights as step by step.
TEST(TrainStepTest, EveryPrecisionAndTheGraphLowerTheLoss) {
  const bool gpu = test::device().is_cuda();
  for (const char* precision : {"float32", "bf16", "fp16"}) {
    if (!gpu && std::string(precision) == "fp16") continue;  // convolutions in fp16 are slow there
    Tensor weights;
    for (const bool graph : {false, true}) {
      if (graph && !gpu) continue;
      SCOPED_TRACE(std::string(precision) + (graph ? " graph" : ""));
      Config config = test::small_config("inplace");
      config.precision = precision;
      config.cuda_graph = graph;
      config.channels_last = true;
      config.optimizer.ema_decay = 0.9;
      config.optimizer.accumulation_steps = 2;
      config.deterministic = true;  // or eager steps and the graph could differ in the last bits
      prepare_device(config, test::device().str());
      const auto network = build_network(config, test::device());
      network->train();
      MetricSums metrics(test::device());
      TrainStep step(config, *network, metrics, test::device());
      torch::manual_seed(5);
      const Tensor images = torch::randn({16, 1, 8, 8}).to(test::device());
      const Tensor labels = torch::randint(3, {16}, torch::kLong).to(test::device());
      double first = 0, last = 0;
      for (int i = 0; i < 12; ++i) {
        step.optimizer().scale_learning_rates(1.0 / (i + 1));
        last = step(images, labels).item<double>();
        if (i == 0) first = last;
      }
      EXPECT_LT(last, 0.9 * first);
      EXPECT_EQ(metrics.values().images, 12 * 16);
      const Tensor now = network->parameters()[0].detach().cpu();
      EXPECT_TRUE(!graph || torch::equal(weights, now));
      weights = now.clone();
    }
  }
}

}  // namespace
}  // namespace iabn::train
