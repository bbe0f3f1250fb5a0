// What training of segmentation is made of: the loss of pixels, counts of classes, a step.

#include <cmath>
#include <string>

#include <gtest/gtest.h>
#include <torch/torch.h>

#include "iabn/models/network.h"
#include "iabn/segmentation/confusion.h"
#include "iabn/segmentation/pixel_loss.h"
#include "iabn/train/build.h"
#include "iabn/train/precision.h"
#include "iabn/train/step.h"
#include "tests/cpp/support.h"
#include "tests/cpp/train_support.h"

namespace iabn::train {
namespace {

using segmentation::pixel_loss;
using segmentation::PixelLossOptions;
using torch::Tensor;
namespace F = torch::nn::functional;

constexpr int64_t kIgnore = 255;

struct Case {
  int64_t images, classes, low_height, low_width, height, width;
};

// One part of the scores, several images in each of two parts, and several parts of an image.
constexpr Case kCases[] = {{2, 3, 5, 7, 37, 41}, {5, 11, 20, 30, 150, 200}, {2, 4, 40, 33, 1100, 1030}};

struct Sample {
  Tensor logits, truth;
};

Sample sample(const Case& c) {
  torch::manual_seed(3);
  Sample result;
  result.logits = torch::randn({c.images, c.classes, c.low_height, c.low_width}).mul_(3);
  result.truth = torch::randint(c.classes, {c.images, c.height, c.width}, torch::kLong);
  result.truth.masked_fill_(torch::rand(result.truth.sizes()).lt(0.3), kIgnore);
  result.logits = result.logits.to(test::device());
  result.truth = result.truth.to(test::device());
  return result;
}

// In double: losses of all pixels, 0 where ignored.
Tensor naive_losses(const Tensor& logits, const Tensor& truth, double smoothing) {
  const Tensor scores = F::interpolate(logits, F::InterpolateFuncOptions()
                                                   .size(std::vector<int64_t>{truth.size(1), truth.size(2)})
                                                   .mode(torch::kBilinear)
                                                   .align_corners(false));
  return F::cross_entropy(
      scores, truth,
      F::CrossEntropyFuncOptions().ignore_index(kIgnore).reduction(torch::kNone).label_smoothing(smoothing));
}

// A few roundings of float32 of scores up to about 15.
constexpr double kTolerance = 2e-5;

void expect_same_gradient(const Tensor& got, const Tensor& want) {
  ASSERT_TRUE(got.defined());
  EXPECT_LT((got.to(torch::kDouble) - want).abs().max().item<double>(), 1e-5 * want.abs().max().item<double>() + 1e-12);
}

TEST(PixelLoss, IsTheCrossEntropyOfTheUpsampledLogits) {
  for (const Case& c : kCases) {
    for (const double smoothing : {0.0, 0.1}) {
      SCOPED_TRACE(std::to_string(c.height) + " " + std::to_string(smoothing));
      const auto [logits, truth] = sample(c);
      const Tensor ours = logits.clone().requires_grad_(), theirs = logits.to(torch::kDouble).requires_grad_();
      PixelLossOptions options;
      options.label_smoothing = smoothing;
      const auto result = pixel_loss(ours, truth, options);
      const Tensor want = naive_losses(theirs, truth, smoothing).sum() / truth.ne(kIgnore).sum();
      EXPECT_NEAR(result.loss.item<double>(), want.item<double>(), kTolerance);
      result.loss.backward();
      want.backward();
      expect_same_gradient(ours.grad(), theirs.grad());
    }
  }
}

TEST(PixelLoss, AnswersWithTheMostLikelyClass) {
  const auto [logits, truth] = sample(kCases[1]);
  const Tensor scores =
      F::interpolate(logits.to(torch::kDouble), F::InterpolateFuncOptions()
                                                    .size(std::vector<int64_t>{truth.size(1), truth.size(2)})
                                                    .mode(torch::kBilinear)
                                                    .align_corners(false));
  const auto result = pixel_loss(logits, truth, {});
  EXPECT_EQ(result.labels.scalar_type(), torch::kByte);
  // Equal but for ties of float32.
  EXPECT_LT(result.labels.ne(scores.argmax(1)).sum().item<int64_t>(), 5);
}

TEST(PixelLoss, LearnsFromTheHardestPixelsAlone) {
  for (const Case& c : kCases) {
    for (const double share : {0.01, 0.25, 0.999}) {
      SCOPED_TRACE(std::to_string(c.height) + " " + std::to_string(share));
      const auto [logits, truth] = sample(c);
      const Tensor ours = logits.clone().requires_grad_(), theirs = logits.to(torch::kDouble).requires_grad_();
      PixelLossOptions options;
      options.hard_pixels = share;
      const auto result = pixel_loss(ours, truth, options);
      const Tensor losses = naive_losses(theirs, truth, 0).masked_select(truth.ne(kIgnore));
      const auto number = static_cast<int64_t>(std::ceil(share * static_cast<double>(losses.numel())));
      const Tensor want = std::get<0>(losses.topk(number)).mean();
      // A pixel at the threshold may be another one in float32, and others may be equal to it.
      const double unit = 2.0 / static_cast<double>(number);
      EXPECT_NEAR(result.loss.item<double>(), want.item<double>(), kTolerance + unit * want.item<double>());
      result.loss.backward();
      want.backward();
      EXPECT_LT((ours.grad().to(torch::kDouble) - theirs.grad()).abs().max().item<double>(),
                unit + 1e-5 * theirs.grad().abs().max().item<double>());
    }
  }
}

TEST(PixelLoss, ABatchWithoutAPixelThatCountsGivesZero) {
  for (const double share : {1.0, 0.3}) {
    auto [logits, truth] = sample(kCases[0]);
    truth.fill_(kIgnore);
    logits.requires_grad_();
    PixelLossOptions options;
    options.hard_pixels = share;
    const auto result = pixel_loss(logits, truth, options);
    result.loss.backward();
    EXPECT_EQ(result.loss.item<double>(), 0);
    EXPECT_EQ(logits.grad().abs().max().item<double>(), 0);
  }
}

TEST(PixelLoss, ANumberThatIsNotFiniteShows) {
  for (const double share : {1.0, 0.3}) {
    const auto [logits, truth] = sample(kCases[0]);
    logits.fill_(NAN);
    PixelLossOptions options;
    options.hard_pixels = share;
    EXPECT_TRUE(std::isnan(pixel_loss(logits, truth, options).loss.item<double>()));
  }
}

TEST(PixelLoss, ComputesInFloat32UnderAutocastToo) {
  const auto [logits, truth] = sample(kCases[0]);
  const Tensor half = logits.to(torch::kBFloat16).requires_grad_();
  const double plain = pixel_loss(half, truth, {}).loss.item<double>();
  const Autocast autocast(test::device(), torch::kBFloat16);
  const auto result = pixel_loss(half, truth, {});
  EXPECT_EQ(result.loss.scalar_type(), torch::kFloat);
  EXPECT_EQ(result.loss.item<double>(), plain);
  result.loss.backward();
  EXPECT_EQ(half.grad().scalar_type(), torch::kBFloat16);
}

TEST(Confusion, CountsEveryPixelOnce) {
  constexpr int64_t kClasses = 5;
  for (const int64_t pixels : {0, 1, 1000, 1200000}) {
    torch::manual_seed(1);
    const Tensor labels = torch::randint(kClasses, {pixels}, torch::kByte);
    const Tensor truth = torch::randint(-1, kClasses + 2, {pixels}, torch::kShort);
    Tensor want = torch::zeros({kClasses, kClasses}, torch::kLong);
    auto counts = want.accessor<int64_t, 2>();
    for (int64_t i = 0; i < pixels; ++i) {
      const int16_t row = truth.const_data_ptr<int16_t>()[i];
      if (row >= 0 && row < kClasses) ++counts[row][labels.const_data_ptr<uint8_t>()[i]];
    }
    segmentation::ConfusionMatrix matrix(kClasses, test::device());
    matrix.add(labels.to(test::device()), truth.to(test::device()));
    EXPECT_TRUE(torch::equal(matrix.counts().cpu(), want)) << pixels;
    matrix.add(labels.to(test::device()), truth.to(test::device()));
    EXPECT_TRUE(torch::equal(matrix.counts().cpu(), 2 * want)) << pixels;
  }
}

TEST(Confusion, ClassesThatNeverOccurAreNoPartOfTheMean) {
  segmentation::ConfusionMatrix matrix(4, torch::kCPU);
  // Class 0: 2 of 3 pixels hit; class 1: 1 hit, 1 false alarm; class 2: predicted only; class 3: never.
  matrix.add(torch::tensor({0, 0, 1, 1, 2}), torch::tensor({0, 0, 0, 1, -1}));
  matrix.add(torch::tensor({2}), torch::tensor({1}));
  const auto table = segmentation::iou_table(matrix.counts());
  EXPECT_NEAR(table.iou[0], 100 * 2.0 / 3, 1e-9);
  EXPECT_NEAR(table.iou[1], 100 * 1.0 / 3, 1e-9);
  EXPECT_EQ(table.iou[2], 0);
  EXPECT_TRUE(std::isnan(table.iou[3]));
  EXPECT_NEAR(table.mean_iou, 100.0 / 3, 1e-9);
  EXPECT_NEAR(table.pixel_accuracy, 100 * 3.0 / 5, 1e-9);
  EXPECT_EQ(table.pixels, (std::vector<int64_t>{3, 2, 0, 0}));
  const auto empty = segmentation::iou_table(torch::zeros({2, 2}));
  EXPECT_TRUE(std::isnan(empty.mean_iou));
  EXPECT_TRUE(std::isnan(empty.pixel_accuracy));
}

TEST(Confusion, FalseAlarmsOfTheIgnoredClassAreNoIouOfZero) {
  const Tensor counts = torch::tensor({3, 0, 1, 0, 2, 2, 0, 0, 0}).view({3, 3});  // class 2 is in no mask
  const auto table = segmentation::iou_table(counts, 2);
  EXPECT_TRUE(std::isnan(table.iou[2]));
  EXPECT_NEAR(table.mean_iou, (75 + 50) / 2.0, 1e-9);
  EXPECT_NEAR(table.pixel_accuracy, 100 * 5.0 / 8, 1e-9);
  EXPECT_NEAR(segmentation::iou_table(counts).mean_iou, 125 / 3.0, 1e-9);
}

Config segmentation_config() {
  Config config = test::small_config("inplace");
  config.task = "segmentation";
  config.segmentation.classes = {"a", "b", "c"};
  config.segmentation.ignore_label = 2;  // within the classes: it counts nowhere all the same
  config.segmentation.hard_pixels = 0.5;
  config.segmentation.head_channels = config.segmentation.hidden_channels = 8;
  config.segmentation.dilations = {1, 2, 3};
  config.network.classes = 3;
  return config;
}

TEST(SegmentationStep, HeadAndClassifierHaveARateOfTheirOwn) {
  Config config = segmentation_config();
  config.optimizer.learning_rate = 0.1;
  config.optimizer.classifier_lr = 0.5;
  const auto network = build_network(config, torch::kCPU);
  const TrainOptimizer optimizer(config.optimizer, *network);
  ASSERT_EQ(optimizer.groups().size(), 2u);
  EXPECT_EQ(optimizer.learning_rate(0), 0.1);
  EXPECT_EQ(optimizer.learning_rate(1), 0.5);
  std::vector<int64_t> top;
  int64_t i = 0;
  for (const auto& item : network->named_parameters()) {
    if (!item.key().starts_with("body.")) top.push_back(i);
    ++i;
  }
  EXPECT_FALSE(top.empty());
  EXPECT_EQ(optimizer.groups()[1], top);
}

// On a GPU also as one CUDA graph: the same weights as step by step.
TEST(SegmentationStep, EveryPrecisionAndTheGraphLowerTheLoss) {
  const bool gpu = test::device().is_cuda();
  for (const char* precision : {"float32", "bf16", "fp16"}) {
    if (!gpu && std::string(precision) == "fp16") continue;  // convolutions in fp16 are slow there
    Tensor weights;
    for (const bool graph : {false, true}) {
      if (graph && !gpu) continue;
      SCOPED_TRACE(std::string(precision) + (graph ? " graph" : ""));
      Config config = segmentation_config();
      config.precision = precision;
      config.cuda_graph = graph;
      config.channels_last = true;
      config.optimizer.ema_decay = 0.9;
      config.optimizer.accumulation_steps = 2;
      config.deterministic = true;  // or eager steps and the graph could differ in the last bits
      prepare_device(config, test::device().str());
      const auto network = build_network(config, test::device());
      network->train();
      const auto meter = make_task(config)->meter(test::device());
      TrainStep step(config, *network, *meter, test::device());
      torch::manual_seed(5);
      const Tensor images = torch::randn({8, 1, 32, 32});
      const Tensor labels = images.squeeze(1).gt(0).to(torch::kLong);
      labels.slice(1, 0, 4).fill_(2);
      double first = 0, last = 0;
      for (int i = 0; i < 12; ++i) {
        step.optimizer().scale_learning_rates(1.0 / (i + 1));
        last = step(images.to(test::device()), labels.to(test::device())).item<double>();
        if (i == 0) first = last;
      }
      EXPECT_LT(last, 0.95 * first);
      const Metrics metrics = meter->values();
      EXPECT_EQ(metrics.images, 12 * 8);
      EXPECT_EQ(meter->total(nullptr).sums.slice(0, 1).sum().item<double>(), 12 * 8 * 28 * 32);
      EXPECT_GT(metrics.score(), 20);
      const Tensor now = network->parameters()[0].detach().cpu();
      EXPECT_TRUE(!graph || torch::equal(weights, now));
      weights = now.clone();
    }
  }
}

}  // namespace
}  // namespace iabn::train
