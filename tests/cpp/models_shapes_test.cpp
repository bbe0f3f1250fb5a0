// The networks: names and shapes, options, initial weights.

#include <functional>
#include <map>
#include <stdexcept>
#include <string>

#include <gmock/gmock.h>
#include <torch/torch.h>

#include "iabn/models/network.h"
#include "iabn/models/registry.h"
#include "iabn/models/weight_init.h"
#include "tests/cpp/models_support.h"

namespace iabn::models {
namespace {

NetworkOptions options(const char* mode, const char* activation = "leaky_relu") {
  NetworkOptions result;
  result.norm_mode = mode;
  result.activation = activation;
  result.classes = 10;
  result.input_channels = 1;
  return result;
}

int64_t weights(const Network& network) {
  int64_t count = 0;
  for (const auto& parameter : network.parameters()) count += parameter.numel();
  return count;
}

TEST(Models, NamesAndShapesOfTheStateDict) {
  const auto network = make_network("preact_resnet8", options("inplace"));
  std::map<std::string, std::vector<int64_t>> shapes;
  for (const auto& item : network->named_parameters()) shapes[item.key()] = item.value().sizes().vec();
  for (const auto& item : network->named_buffers()) shapes[item.key()] = item.value().sizes().vec();
  using Shape = std::vector<int64_t>;
  EXPECT_EQ(shapes.at("mod1.conv1.weight"), (Shape{16, 1, 3, 3}));
  EXPECT_EQ(shapes.at("mod2.block1.bn1.running_mean"), (Shape{16}));
  EXPECT_EQ(shapes.count("mod2.block1.proj_conv.weight"), 0u);
  EXPECT_EQ(shapes.at("mod3.block1.convs.conv1.weight"), (Shape{32, 16, 3, 3}));
  EXPECT_EQ(shapes.at("mod3.block1.convs.bn2.weight"), (Shape{32}));
  EXPECT_EQ(shapes.at("mod3.block1.convs.conv2.weight"), (Shape{32, 32, 3, 3}));
  EXPECT_EQ(shapes.at("mod3.block1.proj_conv.weight"), (Shape{32, 16, 1, 1}));
  EXPECT_EQ(shapes.at("bn_out.num_batches_tracked"), Shape{});
  EXPECT_EQ(shapes.at("classifier.fc.weight"), (Shape{10, 64}));
}

TEST(Models, WeightCounts) {
  // Stem 144; blocks 4608 + 64, 13824 + 512 + 96, 55296 + 2048 + 192 (convolutions, projection, norms); bn_out 128; fc
  // 650.
  EXPECT_EQ(weights(*make_network("preact_resnet8", options("standard"))), 77562);
  // Each further block: two convolutions of equal width w (18 w^2) and two norms (4 w).
  const int64_t further = 18 * (16 * 16 + 32 * 32 + 64 * 64) + 4 * (16 + 32 + 64);
  EXPECT_EQ(weights(*make_network("preact_resnet14", options("inplace"))), 77562 + further);
  EXPECT_EQ(weights(*make_network("preact_resnet20", options("inplace"))), 77562 + 2 * further);
}

TEST(Models, UnknownNamesAreAnsweredWithTheNearest) {
  try {
    make_network("preact_resnet18", options("standard"));
    FAIL() << "no error";
  } catch (const std::invalid_argument& error) {
    EXPECT_THAT(error.what(), testing::HasSubstr("unknown network \"preact_resnet18\" (did you mean \"preact_resnet"));
    EXPECT_THAT(error.what(), testing::HasSubstr("known: resnet18, resnet34, "));
  }
}

TEST(Models, WithoutClassifierTheFeatureMapComesOut) {
  NetworkOptions no_classifier = options("inplace");
  no_classifier.classes = 0;
  const auto network = make_network("preact_resnet8", no_classifier);
  EXPECT_EQ(network->forward(torch::randn({2, 1, 28, 28})).sizes(), (std::vector<int64_t>{2, 64, 7, 7}));
}

std::vector<int64_t> output_shape(const char* name, const Dilation& dilation, int64_t side = 64) {
  NetworkOptions dilated = test::network_options("standard");
  dilated.classes = 0;
  dilated.dilation = dilation;
  const auto network = make_network(name, dilated);
  network->eval();
  const torch::NoGradGuard no_grad;
  return network->forward(torch::zeros({1, 3, side, side})).sizes().vec();
}

// A dilation other than 1 takes away its module's stride; resnet*'s first pooling goes with that of the first module.
TEST(Models, DilationReplacesStrides) {
  using Shape = std::vector<int64_t>;
  using Modules = std::vector<ModuleDilation>;
  EXPECT_EQ(output_shape("resnet18", int64_t{1}), (Shape{1, 512, 2, 2}));
  EXPECT_EQ(output_shape("resnet18", Modules{1, 1, 2, 4}), (Shape{1, 512, 8, 8}));
  EXPECT_EQ(output_shape("resnet18", Modules{2, 1, 1, 1}), (Shape{1, 512, 4, 4}));
  EXPECT_EQ(output_shape("resnet18", int64_t{2}), (Shape{1, 512, 32, 32}));
  EXPECT_EQ(output_shape("resnext50", int64_t{1}), (Shape{1, 2048, 2, 2}));
  EXPECT_EQ(output_shape("resnext50", Modules{2, 1, 1, 2}), (Shape{1, 2048, 4, 4})) << "the pooling stays";
  EXPECT_EQ(output_shape("resnext50", Modules{1, 1, std::vector<int64_t>{1, 2, 2, 2, 2, 2}, 4}),
            (Shape{1, 2048, 4, 4}));
  EXPECT_EQ(output_shape("densenet121", int64_t{1}), (Shape{1, 1024, 2, 2}));
  EXPECT_EQ(output_shape("densenet121", Modules{1, 1, 2, 4}), (Shape{1, 1024, 8, 8}));
  EXPECT_EQ(output_shape("wider_resnet16", int64_t{1}, 32), (Shape{1, 4096, 1, 1}));
  EXPECT_EQ(output_shape("wider_resnet16_a2", int64_t{1}, 32), (Shape{1, 4096, 1, 1}));
  EXPECT_EQ(output_shape("wider_resnet16_a2", true, 32), (Shape{1, 4096, 4, 4}));
  EXPECT_EQ(output_shape("wider_resnet16_a2", Modules{1}, 32), (Shape{1, 4096, 4, 4})) << "a list counts as on";
  EXPECT_EQ(output_shape("wider_resnet16_a2", Modules{}, 32), (Shape{1, 4096, 1, 1}));
}

TEST(Models, DilationReachesEvery3x3OfTheBlocksItIsFor) {
  NetworkOptions per_block = test::network_options("standard");
  per_block.dilation = std::vector<ModuleDilation>{1, 1, std::vector<int64_t>{1, 2, 1, 3, 1, 4}, 5};
  const auto network = make_network("resnext50", per_block);
  const auto dilation = [&](const std::string& key) {
    auto* conv = network->named_modules()[key]->as<torch::nn::Conv2dImpl>();
    return conv->options.dilation()->at(0);
  };
  EXPECT_EQ(dilation("mod4.block1.convs.conv2"), 1);
  EXPECT_EQ(dilation("mod4.block2.convs.conv2"), 2);
  EXPECT_EQ(dilation("mod4.block4.convs.conv2"), 3);
  EXPECT_EQ(dilation("mod4.block6.convs.conv2"), 4);
  EXPECT_EQ(dilation("mod5.block2.convs.conv2"), 5);
  EXPECT_EQ(dilation("mod5.block2.convs.conv1"), 1);
}

std::string error_of(const char* name, const std::function<void(NetworkOptions&)>& change) {
  NetworkOptions changed = test::network_options("standard");
  change(changed);
  try {
    make_network(name, changed);
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
  return "no error";
}

TEST(Models, OptionsThatANetworkCannotHaveAreNamed) {
  const auto dilation = [](Dilation value) { return [=](NetworkOptions& changed) { changed.dilation = value; }; };
  EXPECT_EQ(error_of("resnet18", [](NetworkOptions& changed) { changed.input_3x3 = true; }),
            "input_3x3: resnet18 begins with a 7x7 convolution always; input_3x3 is for resnext* and densenet*");
  EXPECT_EQ(error_of("wider_resnet16", dilation(std::vector<ModuleDilation>{1, 2})),
            "dilation: wider_resnet16 has no dilation, so it must be 1, got [1, 2]");
  EXPECT_EQ(error_of("wider_resnet16_a2", dilation(int64_t{2})),
            "dilation: wider_resnet16_a2 takes true or false, got 2");
  EXPECT_EQ(
      error_of("densenet121", dilation(std::vector<ModuleDilation>{1, std::vector<int64_t>{2}, 1, 1})),
      "dilation: module 2 of densenet121 takes one number, not a list: only resnext* have a dilation for each block");
  EXPECT_EQ(error_of("preact_resnet8", [](NetworkOptions& changed) { changed.input_3x3 = true; }), "no error");
}

// The published recipe of WideResNet sets it.
TEST(Models, WiderNetworksIgnoreInput3x3) {
  NetworkOptions with = test::network_options("standard");
  with.input_3x3 = true;
  EXPECT_EQ(make_network("wider_resnet16", with)->named_parameters().keys(),
            make_network("wider_resnet16", test::network_options("standard"))->named_parameters().keys());
}

TEST(Models, DropoutOfA2IsInTheLastModules) {
  const auto network = make_network("wider_resnet16_a2", test::network_options("inplace"));
  std::map<std::string, double> found;
  for (const auto& item : network->named_modules()) {
    if (auto* dropout = item.value()->as<torch::nn::Dropout2dImpl>()) found[item.key()] = dropout->options.p();
  }
  EXPECT_EQ(found,
            (std::map<std::string, double>{{"mod6.block1.convs.dropout", 0.3}, {"mod7.block1.convs.dropout", 0.5}}));
}

TEST(Models, NamesOfCifarResNet) {
  const auto network = make_network("cifar_resnet20", test::network_options("inplace"));
  const auto parameters = network->named_parameters();
  EXPECT_EQ(parameters.size(), 19 * 3 + 2u);
  EXPECT_EQ(parameters["layer2.0.conv1.weight"].sizes(), (std::vector<int64_t>{32, 16, 3, 3}));
  EXPECT_EQ(parameters["layer3.2.bn2.bias"].sizes(), (std::vector<int64_t>{64}));
  EXPECT_EQ(parameters["linear.weight"].sizes(), (std::vector<int64_t>{10, 64}));
  EXPECT_EQ(weights(*network), 269722) << "0.27 million, as published";
}

TEST(WeightInit, NormsAndTheClassifierOfEveryFamily) {
  for (const auto& member : test::families()) {
    const auto network = make_network(member.name, test::network_options("inplace"));
    torch::NoGradGuard no_grad;
    for (auto& parameter : network->parameters()) parameter.fill_(7);
    init_weights(*network, {.method = "kaiming_uniform"});
    for (const auto& item : network->named_parameters()) {
      const auto& [key, value] = item.pair();
      const bool bias = key.ends_with("bias");
      if (value.dim() == 1) {
        EXPECT_TRUE((value == (bias ? 0 : 1)).all().item<bool>()) << member.name << " " << key;
      }
      if (value.dim() != 2) continue;
      const double bound = 0.1 * std::sqrt(6.0 / static_cast<double>(value.size(0) + value.size(1)));
      EXPECT_LE(value.abs().max().item<double>(), bound) << member.name << " " << key;
      EXPECT_GE(value.abs().max().item<double>(), 0.9 * bound) << member.name << " " << key;
    }
  }
}

TEST(WeightInit, DeviationsFollowTheMethod) {
  NetworkOptions wide = options("standard");
  wide.width = 64;
  const auto deviation = [&](const char* method, double multiplier) {
    torch::manual_seed(1);
    const auto network = make_network("preact_resnet8", wide);
    init_weights(*network, {method, multiplier, "leaky_relu", 0.5});
    return network->named_parameters()["mod2.block1.convs.conv1.weight"].std().item<double>();
  };
  const double gain = std::sqrt(2 / 1.25), fan = 64 * 9;  // fan in = fan out
  EXPECT_NEAR(deviation("xavier_normal", 1), gain * std::sqrt(2 / (fan + fan)), 5e-4);
  EXPECT_NEAR(deviation("xavier_uniform", 2), 2 * gain * std::sqrt(2 / (fan + fan)), 1e-3);
  EXPECT_NEAR(deviation("kaiming_normal", 1), gain / std::sqrt(fan), 5e-4);
  EXPECT_NEAR(deviation("kaiming_uniform", 1), gain / std::sqrt(fan), 5e-4);
  EXPECT_NEAR(deviation("orthogonal", 1), gain / std::sqrt(fan), 5e-4);
  EXPECT_THROW(deviation("xavier", 1), std::invalid_argument);
}

}  // namespace
}  // namespace iabn::models
