// The networks compute the same with in-place norm layers as with BatchNorm, in float64.

#include <string>

#include <gmock/gmock.h>
#include <torch/torch.h>

#include "iabn/models/deeplab_v3.h"
#include "iabn/models/network.h"
#include "iabn/models/registry.h"
#include "iabn/models/weight_init.h"
#include "tests/cpp/models_support.h"

namespace iabn::models {
namespace {

using test::network_options;
using test::pictures;
using torch::Tensor;

// The same weights in both, some gammas negative, in float64.
void make_equal(torch::nn::Module& standard, torch::nn::Module& in_place, const std::string& activation) {
  torch::manual_seed(5);
  // Cheaper than normal values for the 60 million weights of wider networks.
  init_weights(standard, {.method = "xavier_uniform", .activation = activation});
  const torch::NoGradGuard no_grad;
  auto copies = in_place.named_parameters();
  for (auto& item : standard.named_parameters()) {
    if (item.value().dim() == 1) item.value().uniform_(-1, 1).add_(0.2);
    copies[item.key()].copy_(item.value());
  }
  for (auto* network : {&standard, &in_place}) {
    network->to(torch::kDouble);
    for (const auto& module : network->modules()) {
      // Random masks would differ.
      if (auto* dropout = module->as<torch::nn::Dropout2dImpl>()) dropout->options.p(0);
    }
  }
}

void expect_equal(const Tensor& a, const Tensor& b, const std::string& what) {
  ASSERT_EQ(a.sizes(), b.sizes()) << what;
  const double scale = std::max(1.0, b.abs().max().item<double>());
  EXPECT_LE((a - b).abs().max().item<double>() / scale, 1e-9) << what;
}

template <class Module>
void expect_equal_networks(Module& standard, Module& in_place, const Tensor& input) {
  for (const auto format : {torch::MemoryFormat::Contiguous, torch::MemoryFormat::ChannelsLast}) {
    const Tensor x = input.contiguous(format), copy = x.clone();
    const Tensor a = in_place.forward(x), b = standard.forward(x);
    EXPECT_TRUE(torch::equal(x, copy)) << "the input was overwritten";
    expect_equal(a, b, "output");
    in_place.zero_grad();
    standard.zero_grad();
    const Tensor d_output = torch::randn_like(b);
    a.backward(d_output);
    b.backward(d_output);
    auto parameters = in_place.named_parameters();
    for (const auto& item : standard.named_parameters()) {
      ASSERT_TRUE(parameters[item.key()].grad().defined()) << item.key();
      expect_equal(parameters[item.key()].grad(), item.value().grad(), item.key());
    }
  }
  auto buffers = in_place.named_buffers();
  for (const auto& item : standard.named_buffers()) {
    expect_equal(buffers[item.key()].to(torch::kDouble), item.value().to(torch::kDouble), item.key());
  }
  in_place.eval();
  standard.eval();
  const torch::NoGradGuard no_grad;
  expect_equal(in_place.forward(input), standard.forward(input), "evaluation");
}

struct Variant {
  test::FamilyMember member;
  std::string activation;
};

std::vector<Variant> variants() {
  std::vector<Variant> result;
  for (const auto& member : test::families()) {
    const std::string name = member.name;
    if (name == "wider_resnet16")
      continue;  // 60 million weights; its blocks are those of _a2, and golden numbers hold it
    result.push_back({member, "leaky_relu"});
    if (name != "resnet18" && name != "cifar_resnet20" && name != "preact_resnet14") continue;  // the quick ones
    for (const char* activation : {"elu", "identity"}) result.push_back({member, activation});
  }
  return result;
}

class InPlaceEqualsStandard : public testing::TestWithParam<Variant> {};

TEST_P(InPlaceEqualsStandard, OutputsGradientsAndRunningStatistics) {
  const auto& [member, activation] = GetParam();
  const auto standard = make_network(member.name, network_options("standard", activation));
  const auto in_place = make_network(member.name, network_options("inplace", activation));
  make_equal(*standard, *in_place, activation);
  expect_equal_networks(*standard, *in_place, pictures(3, member.side, torch::kDouble));
}

INSTANTIATE_TEST_SUITE_P(Families, InPlaceEqualsStandard, testing::ValuesIn(variants()), [](const auto& info) {
  return std::string(info.param.member.name) + "_" + info.param.activation;
});

TEST(InPlaceEqualsStandard, WithDilationAndWithoutClassifier) {
  const auto compare = [](const char* name, const Dilation& dilation) {
    SCOPED_TRACE(name);
    NetworkOptions standard_options = network_options("standard"), in_place_options = network_options("inplace");
    for (NetworkOptions* options : {&standard_options, &in_place_options}) {
      options->classes = 0;
      options->dilation = dilation;
    }
    const auto standard = make_network(name, standard_options), in_place = make_network(name, in_place_options);
    make_equal(*standard, *in_place, "leaky_relu");
    expect_equal_networks(*standard, *in_place, pictures(2, 32, torch::kDouble));
  };
  compare("resnet18", std::vector<ModuleDilation>{2, 1, 2, 4});  // without the pooling of mod1
  compare("densenet121", std::vector<ModuleDilation>{1, 1, 2, 2});
}

TEST(InPlaceEqualsStandard, DeepLabV3) {
  DeepLabV3Options options;
  options.in_channels = 24;
  options.out_channels = 12;
  options.hidden_channels = 8;
  options.dilations = {1, 2, 3};
  options.pooling_size = {{5, 20}};  // wider than the map
  options.activation = "elu";
  const auto standard = std::make_shared<DeepLabV3>(options);
  options.norm_mode = "inplace";
  const auto in_place = std::make_shared<DeepLabV3>(options);
  make_equal(*standard, *in_place, "elu");
  expect_equal_networks(*standard, *in_place, torch::randn({3, 24, 9, 11}, torch::kDouble));
}

TEST(Models, ReLUTrainsWithStandardNorms) {
  for (const auto& member : test::families()) {
    if (std::string(member.name).starts_with("wider")) continue;
    const auto network = make_network(member.name, network_options("standard", "relu"));
    network->forward(pictures(2, member.side)).sum().backward();
    for (const auto& item : network->named_parameters()) {
      EXPECT_TRUE(item.value().grad().defined()) << member.name << " " << item.key();
    }
  }
}

}  // namespace
}  // namespace iabn::models
