// What the networks hold for backward, against a count by hand; and that the count without data is the real one.

#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <torch/torch.h>

#include "iabn/models/deeplab_v3.h"
#include "iabn/models/network.h"
#include "iabn/models/registry.h"
#include "iabn/train/memory_meter.h"
#include "iabn/train/network_cost.h"
#include "tests/cpp/models_support.h"

namespace iabn::models {
namespace {

using test::network_options;
using Blocks = std::vector<int64_t>;

constexpr int64_t kImages = 2, kSide = 64, kClasses = 10;

// Counts float32 values: what a network must hold if every layer keeps what its backward needs and no more.
struct Count {
  bool in_place;
  double floats = 0;

  static double map(int64_t channels, int64_t side) { return static_cast<double>(kImages * channels * side * side); }
  // A convolution's output, the norm and activation on it, and the result that the next convolution keeps: BatchNorm
  // keeps its input, mean and deviation; an in-place norm its output, which is that result, and the variance.
  void norm(int64_t channels, int64_t side) {
    floats += (in_place ? 1 : 2) * map(channels, side);
    statistics(channels);
  }
  void statistics(int64_t channels) { floats += static_cast<double>(in_place ? channels : 2 * channels); }
  void map_kept(int64_t channels, int64_t side) { floats += map(channels, side); }
  void pool_bytes(int64_t channels, int64_t side) { floats += map(channels, side) / 4; }
  void end(int64_t channels) { floats += static_cast<double>(kImages * (channels + kClasses)); }  // average, logits
  int64_t bytes() const { return static_cast<int64_t>(4 * floats); }
};

int64_t resnet(bool in_place, const Blocks& blocks, bool bottleneck) {
  Count count{in_place};
  int64_t side = kSide / 2, from = 64;
  count.norm(64, side);
  side /= 2;
  count.map_kept(64, side);
  count.pool_bytes(64, side);
  for (size_t module = 0; module < blocks.size(); ++module) {
    const int64_t narrow = 64 << module, wide = bottleneck ? 4 * narrow : narrow;
    for (int64_t block = 0; block < blocks[module]; ++block) {
      const bool strides = module > 0 && block == 0;
      const int64_t before = side;
      if (strides) side /= 2;
      count.norm(narrow, bottleneck ? before : side);
      if (bottleneck) count.norm(narrow, side);
      // The last norm keeps one map either way, and the activation behind the addition its result.
      count.map_kept(wide, side);
      count.statistics(wide);
      count.map_kept(wide, side);
      if (strides || from != wide) {
        count.map_kept(wide, side);
        count.statistics(wide);
      }
      from = wide;
    }
  }
  count.end(from);
  return count.bytes();
}

int64_t resnext(bool in_place, const Blocks& blocks) {
  Count count{in_place};
  int64_t side = kSide / 4, from = 64;
  count.pool_bytes(64, side);
  for (size_t module = 0; module < blocks.size(); ++module) {
    for (int64_t block = 0; block < blocks[module]; ++block) {
      count.norm(from, side);
      if (module > 0 && block == 0) side /= 2;
      count.norm(128 << module, side);
      count.norm(128 << module, side);
      from = 256 << module;
    }
  }
  count.norm(from, side);
  count.end(from);
  return count.bytes();
}

int64_t wider_resnet16(bool in_place, bool a2) {
  Count count{in_place};
  const std::vector<Blocks> channels{{128, 128},  {256, 256},        {512, 512},
                                     {512, 1024}, {512, 1024, 2048}, {1024, 2048, 4096}};
  int64_t side = kSide, from = 64;
  for (int number = 2; number <= 7; ++number) {
    const Blocks& widths = channels[static_cast<size_t>(number) - 2];
    if (number <= (a2 ? 3 : 6)) {
      side /= 2;
      count.pool_bytes(from, side);
    }
    count.norm(from, side);
    if (a2 && number >= 4 && number <= 6) side /= 2;
    for (size_t i = 0; i + 1 < widths.size(); ++i) count.norm(widths[i], side);
    if (a2 && number >= 6) {  // dropout: the dropped copy and the mask
      const int64_t dropped = widths[widths.size() - 2];
      count.map_kept(dropped, side);
      count.floats += static_cast<double>(kImages * dropped);
    }
    from = widths.back();
  }
  count.norm(from, side);
  count.end(from);
  return count.bytes();
}

int64_t densenet(bool in_place, const Blocks& layers) {
  Count count{in_place};
  int64_t side = kSide / 4, channels = 64;
  count.pool_bytes(64, side);
  for (size_t module = 0; module < layers.size(); ++module) {
    for (int64_t i = 0; i < layers[module]; ++i) {
      count.norm(channels, side);
      count.norm(128, side);
      channels += 32;
    }
    count.norm(channels, side);  // tra* or bn_out
    if (module + 1 == layers.size()) break;
    channels /= 2;
    side /= 2;
  }
  count.end(channels);
  return count.bytes();
}

int64_t measured(const std::string& name, const std::string& norm_mode) {
  train::MemoryMeter meter(torch::kCPU);
  const auto network = make_network(name, network_options(norm_mode));
  const auto x = test::pictures(kImages, kSide);
  const int64_t before = meter.current();
  const auto output = network->forward(x);
  return meter.current() - before;
}

void expect_held(const char* name, int64_t standard, int64_t in_place, double largest_ratio) {
  EXPECT_EQ(measured(name, "standard"), standard) << name;
  EXPECT_EQ(measured(name, "inplace"), in_place) << name;
  EXPECT_LE(static_cast<double>(in_place) / static_cast<double>(standard), largest_ratio) << name;
}

// Two of three norms of a bottleneck save a narrow map each; the wide ones stay: 10 of 12 maps.
TEST(HeldForBackward, ResNet) {
  expect_held("resnet50", resnet(false, {3, 4, 6, 3}, true), resnet(true, {3, 4, 6, 3}, true), 0.81);
  expect_held("resnet18", resnet(false, {2, 2, 2, 2}, false), resnet(true, {2, 2, 2, 2}, false), 0.70);
}
// Identity mappings and dense modules are pairs of norm and convolution throughout.
TEST(HeldForBackward, ResNeXt) {
  expect_held("resnext50", resnext(false, {3, 4, 6, 3}), resnext(true, {3, 4, 6, 3}), 0.51);
}
TEST(HeldForBackward, WiderResNet) {
  expect_held("wider_resnet16", wider_resnet16(false, false), wider_resnet16(true, false), 0.53);
  expect_held("wider_resnet16_a2", wider_resnet16(false, true), wider_resnet16(true, true), 0.54);
}
TEST(HeldForBackward, DenseNet) {
  expect_held("densenet121", densenet(false, {6, 12, 24, 16}), densenet(true, {6, 12, 24, 16}), 0.51);
}

TEST(NetworkCost, HeldWithoutDataIsWhatTheAllocatorCounts) {
  for (const auto& member : test::families()) {
    for (const char* mode : {"standard", "inplace"}) {
      const auto cost = train::network_cost(member.name, network_options(mode), {kImages, 3, kSide, kSide});
      EXPECT_EQ(cost.held, measured(member.name, mode)) << member.name << " " << mode;
    }
  }
}

TEST(NetworkCost, MultiplyAddsAndParametersByHand) {
  // 32x32 maps of 16 channels, then 16x16 of 32 and 8x8 of 64: six 3x3 convolutions each, the first of a module reading
  // half the channels.
  const int64_t layer1 = 9 * 1024 * (3 * 16 + 6 * 16 * 16), layer2 = 9 * 256 * (16 * 32 + 5 * 32 * 32),
                layer3 = 9 * 64 * (32 * 64 + 5 * 64 * 64);
  const auto cost = train::network_cost("cifar_resnet20", network_options("inplace"), {1, 3, 32, 32});
  EXPECT_EQ(cost.multiply_adds, layer1 + layer2 + layer3 + 64 * kClasses);
  EXPECT_EQ(cost.parameters, 269722);
  const auto two = train::network_cost("cifar_resnet20", network_options("inplace"), {2, 3, 32, 32});
  EXPECT_EQ(two.multiply_adds, 2 * cost.multiply_adds);
}

TEST(NetworkCost, LeavesOtherTensorsAlone) {
  train::network_cost("cifar_resnet20", network_options("standard"), {2, 3, 32, 32});
  EXPECT_TRUE(torch::ones(3).is_cpu());
  EXPECT_THROW(train::network_cost("cifar_resnet20", network_options("standard"), {1, 3, 4, 4}), c10::Error);
  EXPECT_TRUE(torch::ones(3).is_cpu()) << "after an error as well";
}

}  // namespace
}  // namespace iabn::models
