// State dicts, gamma modes, sums and checks.

#include <cmath>
#include <cstring>
#include <limits>

#include <gmock/gmock.h>

#include "iabn/io/error.h"
#include "iabn/io/finite.h"
#include "iabn/io/md5.h"
#include "iabn/io/published.h"
#include "tests/cpp/io_support.h"

namespace iabn::io {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

Tensor vector(const std::vector<float>& values) {
  std::vector<uint8_t> bytes(values.size() * sizeof(float));
  std::memcpy(bytes.data(), values.data(), bytes.size());
  return make_tensor(DType::kFloat32, {static_cast<int64_t>(values.size())}, std::move(bytes));
}

// A norm's entries and a convolution's weight.
Dict norm(const std::vector<float>& weight, const std::string& prefix = "") {
  Dict dict;
  dict.set(prefix + "conv.weight", vector(weight));
  for (const char* name : {"weight", "bias", "running_mean", "running_var"}) {
    dict.set(prefix + "bn." + name, vector(weight));
  }
  return dict;
}

std::vector<std::string> keys(const StateDict& weights) {
  std::vector<std::string> result;
  for (const auto& [key, tensor] : weights.tensors) result.push_back(key);
  return result;
}

TEST(StateDict, IsFoundAtTheTopOrUnderItsUsualNames) {
  for (const char* path : {"", "state_dict", "model"}) {
    Dict root;
    if (*path == '\0') {
      root = norm({1});
    } else {
      root.set("epoch", 3);
      root.set(path, norm({1}, "module."));
      root.set("optimizer", Dict());
    }
    const StateDict weights = state_dict(root);
    EXPECT_EQ(weights.path, path);
    EXPECT_EQ(weights.had_module_prefix, *path != '\0');
    EXPECT_THAT(keys(weights), ElementsAre("conv.weight", "bn.weight", "bn.bias", "bn.running_mean", "bn.running_var"));
    EXPECT_EQ(weights.left_out.size(), *path != '\0' ? 2u : 0u);  // epoch, optimizer
  }
}

TEST(StateDict, NestedDictsAreJoinedAndUnwrappedOneByOne) {
  Dict body, head, inner, root;
  body.set("module.a", vector({1}));
  head.set("module.b", vector({1}));
  head.set("c", vector({1}));
  inner.set("body", body);
  inner.set("head", head);
  root.set("state_dict", inner);
  EXPECT_THAT(keys(state_dict(root)), ElementsAre("body.a", "head.module.b", "head.c"));
}

TEST(StateDict, WithoutTensorsIsAnError) {
  const auto error_of = [](const Value& root) -> std::string {
    try {
      state_dict(root);
    } catch (const CheckpointError& error) {
      return error.what();
    }
    return "";
  };
  EXPECT_EQ(error_of(List()), "holds a list, expected a dict of tensors");
  EXPECT_EQ(error_of(Dict()), "holds no tensors");
  Dict root, doubled, inner;
  root.set("state_dict", Dict());
  EXPECT_EQ(error_of(root), "holds no tensors under \"state_dict\"");
  inner.set("b", vector({1}));
  doubled.set("a.b", vector({1}));
  doubled.set("a", inner);
  EXPECT_EQ(error_of(doubled), "two tensors get the key a.b");
}

std::vector<float> converted(const std::vector<float>& weight, Gamma from, Gamma to, double eps = kDefaultEps) {
  Dict snapshot;
  snapshot.set("state_dict", norm(weight, "module."));
  Value root = snapshot;
  convert_gamma(root, from, to, eps);
  Value* state = root.find("state_dict");
  for (const char* other : {"module.conv.weight", "module.bn.bias", "module.bn.running_var"}) {
    const auto kept = test::floats(*state->find(other)->as<Tensor>());
    for (size_t i = 0; i < weight.size(); ++i) EXPECT_TRUE(kept[i] == weight[i] || std::isnan(weight[i])) << other;
  }
  return test::floats(*state->find("module.bn.weight")->as<Tensor>());
}

TEST(Gamma, LegacyWeightsBecomeTheirMagnitudePlusEps) {
  const float eps = 1e-5f;
  EXPECT_THAT(converted({-0.5f, 0, -0.0f, 2, 1e-8f}, Gamma::kLegacy, Gamma::kSigned),
              ElementsAre(0.5f + eps, eps, eps, 2 + eps, 1e-8f + eps));
  EXPECT_THAT(converted({-1, 3}, Gamma::kLegacy, Gamma::kSigned, 0.25), ElementsAre(1.25f, 3.25f));
  EXPECT_TRUE(std::isnan(converted({NAN}, Gamma::kLegacy, Gamma::kSigned)[0]));
}

TEST(Gamma, TheSameModeChangesNothing) {
  EXPECT_THAT(converted({-1, 0}, Gamma::kSigned, Gamma::kSigned), ElementsAre(-1, 0));
  EXPECT_THAT(converted({-1, 0}, Gamma::kLegacy, Gamma::kLegacy), ElementsAre(-1, 0));
}

TEST(Gamma, SignedWeightsGoToLegacyAndComeBackTheSame) {
  std::vector<float> weights{1e-5f, 1.5e-5f, 1e-3f, 0.1f, 1, 1.0000001f, 7.7f, 1e10f};
  for (float x = 1e-5f; x < 100; x *= 1.01f) weights.push_back(x);
  const std::vector<float> legacy = converted(weights, Gamma::kSigned, Gamma::kLegacy);
  for (const float weight : legacy) EXPECT_GE(weight, 0);
  // Some gammas lie between the sums that rounding leaves.
  const std::vector<float> again = converted(legacy, Gamma::kLegacy, Gamma::kSigned);
  size_t same = 0;
  for (size_t i = 0; i < weights.size(); ++i) {
    EXPECT_FLOAT_EQ(again[i], weights[i]);
    same += again[i] == weights[i];
  }
  EXPECT_GT(same, weights.size() * 98 / 100);
}

TEST(Gamma, WhatLegacyCannotExpressIsCountedAndNamed) {
  try {
    converted({-0.5f, 0, 9e-6f, 1e-5f, 2}, Gamma::kSigned, Gamma::kLegacy);
    FAIL() << "no error";
  } catch (const CheckpointError& error) {
    EXPECT_THAT(error.what(), HasSubstr("3 channels of 1 norms have a smaller or negative gamma: "
                                        "state_dict.module.bn.weight (3 of 5)"));
  }
}

TEST(Gamma, OnlyWeightsBesideRunningStatisticsAreNorms) {
  Dict dict = norm({1, 2});
  dict.set("weight", vector({1}));
  dict.set("running_mean", vector({1}));
  dict.set("other.weight", vector({1}));
  dict.set("other.running_mean", vector({1}));
  dict.set("other.running_var", vector({1, 2}));  // of another size
  Value root = dict;
  std::vector<std::string> found;
  for (const NormWeight& weight : norm_weights(root)) found.push_back(weight.key);
  EXPECT_THAT(found, ElementsAre("bn.weight"));
}

TEST(Md5, KnowsTheTestsOfItsRfcAndEveryPadding) {
  const auto sum = [](const std::string& text) {
    return md5(ByteSpan(reinterpret_cast<const uint8_t*>(text.data()), text.size()));
  };
  EXPECT_EQ(sum(""), "d41d8cd98f00b204e9800998ecf8427e");
  EXPECT_EQ(sum("abc"), "900150983cd24fb0d6963f7d28e17f72");
  EXPECT_EQ(sum("message digest"), "f96b697d7cb7938d525a2f31aaf161d0");
  EXPECT_EQ(sum("12345678901234567890123456789012345678901234567890123456789012345678901234567890"),
            "57edf4a22be3c955ac49da2e2107b67a");
  EXPECT_EQ(sum(std::string(55, 'a')), "ef1772b6dff9a122358552954ad0df65");
  EXPECT_EQ(sum(std::string(56, 'a')), "3b0c8ac703f828b04c6c197006d17218");
  EXPECT_EQ(sum(std::string(64, 'a')), "014842d480b571495a4a0363793f7367");
}

TEST(Published, ModelsAreFoundByTheirSum) {
  EXPECT_EQ(published_models().size(), 10u);
  for (const PublishedModel& model : published_models()) {
    EXPECT_EQ(model.md5.size(), 32u);
    EXPECT_EQ(find_published_model(model.md5), &model);
    EXPECT_EQ(model.gamma(), model.bn_mode == "standard" ? Gamma::kSigned : Gamma::kLegacy);
    EXPECT_EQ(model.vistas_miou > 0, model.crop224.top1 == 0);
  }
  EXPECT_EQ(find_published_model("448438885986d14db5e870b95f814f91")->name, "ResNeXt101, Std-BN");
  EXPECT_EQ(find_published_model("d41d8cd98f00b204e9800998ecf8427e"), nullptr);
}

TEST(NonFinite, IsCountedByType) {
  const auto count = [](DType dtype, std::vector<uint8_t> bytes) {
    const auto numel = static_cast<int64_t>(bytes.size() / size_of(dtype));
    const NonFinite found = count_non_finite(make_tensor(dtype, {numel}, std::move(bytes)));
    return std::pair(found.nan, found.infinite);
  };
  using Pair = std::pair<int64_t, int64_t>;
  // NaN, -inf, the largest number
  EXPECT_EQ(count(DType::kFloat16, {1, 0x7c, 0, 0xfc, 0xff, 0x7b}), Pair(1, 1));
  EXPECT_EQ(count(DType::kBFloat16, {0x81, 0x7f, 0x80, 0xff, 0x7f, 0x7f}), Pair(1, 1));
  EXPECT_EQ(count(DType::kInt16, {1, 0x7c, 0, 0xfc, 0xff, 0x7b}), Pair(0, 0));
  EXPECT_EQ(count(DType::kFloat64, {0, 0, 0, 0, 0, 0, 0xf0, 0x7f, 1, 0, 0, 0, 0, 0, 0xf0, 0x7f}), Pair(1, 1));
  const NonFinite floats = count_non_finite(vector({NAN, INFINITY, -INFINITY, 1, std::numeric_limits<float>::max()}));
  EXPECT_EQ(floats.nan, 1);
  EXPECT_EQ(floats.infinite, 2);
}

TEST(SnapshotInfo, ComesFromTheTreeOrTheMetadata) {
  Checkpoint checkpoint;
  EXPECT_FALSE(snapshot_info(checkpoint).gamma);
  Dict ours, root;
  ours.set("gamma", "legacy");
  ours.set("version", "0.1.0");
  ours.set("classes", R"(["ant"])");
  root.set("iabn", ours);
  checkpoint.root = root;
  EXPECT_EQ(snapshot_info(checkpoint).gamma, Gamma::kLegacy);
  EXPECT_EQ(snapshot_info(checkpoint).version, "0.1.0");
  EXPECT_EQ(snapshot_info(checkpoint).classes, R"(["ant"])");
  checkpoint.metadata = {{"iabn.gamma", "signed"}, {"iabn.classes", R"(["bee"])"}};
  EXPECT_EQ(snapshot_info(checkpoint).gamma, Gamma::kSigned);
  EXPECT_EQ(snapshot_info(checkpoint).classes, R"(["bee"])");
  checkpoint.metadata = {{"iabn.gamma", "other"}};
  EXPECT_THROW(snapshot_info(checkpoint), CheckpointError);
}

}  // namespace
}  // namespace iabn::io
