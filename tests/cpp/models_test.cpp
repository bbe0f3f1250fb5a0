// The networks: names and shapes, and in-place = standard.

#include <map>
#include <string>

#include <gmock/gmock.h>
#include <torch/torch.h>

#include "iabn/models/network.h"
#include "iabn/models/registry.h"
#include "iabn/models/weight_init.h"

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

struct Both {
  std::shared_ptr<Network> standard, in_place;
};

// The same weights in both, some gammas negative, in float64.
Both both(const char* name, const char* activation) {
  Both result{make_network(name, options("standard", activation)), make_network(name, options("inplace", activation))};
  torch::manual_seed(5);
  init_weights(*result.standard, {.activation = activation});
  torch::NoGradGuard no_grad;
  auto copies = result.in_place->named_parameters();
  for (auto& item : result.standard->named_parameters()) {
    if (item.value().dim() == 1) item.value().uniform_(-1, 1).add_(0.2);
    copies[item.key()].copy_(item.value());
  }
  for (auto* network : {&result.standard, &result.in_place}) (*network)->to(torch::kDouble);
  return result;
}

void expect_equal(const torch::Tensor& a, const torch::Tensor& b, const std::string& what) {
  const double scale = std::max(1.0, b.abs().max().item<double>());
  EXPECT_LE((a - b).abs().max().item<double>() / scale, 1e-9) << what;
}

class InPlaceEqualsStandard : public testing::TestWithParam<const char*> {};

TEST_P(InPlaceEqualsStandard, OutputsGradientsAndRunningStatistics) {
  const Both nets = both("preact_resnet14", GetParam());
  for (const auto format : {torch::MemoryFormat::Contiguous, torch::MemoryFormat::ChannelsLast}) {
    const auto x = torch::randn({4, 1, 12, 12}, torch::kDouble).contiguous(format);
    const auto d_output = torch::randn({4, 10}, torch::kDouble);
    const auto a = nets.in_place->forward(x), b = nets.standard->forward(x);
    expect_equal(a, b, "output");
    nets.in_place->zero_grad();
    nets.standard->zero_grad();
    a.backward(d_output);
    b.backward(d_output);
  }
  auto parameters = nets.in_place->named_parameters();
  for (const auto& item : nets.standard->named_parameters()) {
    ASSERT_TRUE(parameters[item.key()].grad().defined()) << item.key();
    expect_equal(parameters[item.key()].grad(), item.value().grad(), item.key());
  }
  auto buffers = nets.in_place->named_buffers();
  for (const auto& item : nets.standard->named_buffers()) {
    expect_equal(buffers[item.key()].to(torch::kDouble), item.value().to(torch::kDouble), item.key());
  }
  nets.in_place->eval();
  nets.standard->eval();
  const torch::NoGradGuard no_grad;
  const auto x = torch::randn({3, 1, 12, 12}, torch::kDouble);
  expect_equal(nets.in_place->forward(x), nets.standard->forward(x), "evaluation");
}

INSTANTIATE_TEST_SUITE_P(Activations, InPlaceEqualsStandard, testing::Values("leaky_relu", "elu", "identity"));

TEST(Models, ForwardLeavesItsInputAlone) {
  const auto network = make_network("preact_resnet8", options("inplace"));
  const auto x = torch::randn({2, 1, 8, 8});
  const auto copy = x.clone();
  network->forward(x);
  EXPECT_TRUE(torch::equal(x, copy));
}

TEST(Models, WithoutClassifierTheFeatureMapComesOut) {
  NetworkOptions no_classifier = options("inplace");
  no_classifier.classes = 0;
  const auto network = make_network("preact_resnet8", no_classifier);
  EXPECT_EQ(network->forward(torch::randn({2, 1, 28, 28})).sizes(), (std::vector<int64_t>{2, 64, 7, 7}));
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
