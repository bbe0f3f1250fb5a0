// The known traps of in-place storage (docs/design/1-maths.md), modes and options of the modules, conversion.

#include <torch/autograd.h>

#include <cmath>
#include <sstream>

#include "iabn/nn/abn.h"
#include "iabn/nn/convert.h"
#include "tests/cpp/support.h"
#include "tests/reference/oracle.h"
#include "tests/reference/tolerance.h"

namespace iabn::test {
namespace {

using nn::ABN;
using nn::ABNOptions;
using nn::InPlaceABN;
using testing::HasSubstr;
using torch::Tensor;

constexpr int64_t kRows = 65536;

/// x_hat ~ N(0, 1) and d_z = 0.3 + noise + 0.05*x_hat, the data that the bounds of the maths note were measured on.
struct GuardCase {
  Tensor x, d_z, d_x;
  OracleResult expected;
  InPlaceABN layer{nullptr};

  GuardCase(double gamma, double beta, torch::Dtype dtype, const std::string& activation = "leaky_relu") {
    torch::manual_seed(4);
    const Tensor x_hat = torch::randn({kRows, 1});
    x = x_hat.to(dtype);
    d_z = (0.3 + torch::randn({kRows, 1}) + 0.05 * x_hat).to(dtype);
    layer = InPlaceABN(ABNOptions(1).activation(activation));
    layer->to(device());
    {
      torch::NoGradGuard no_grad;
      layer->weight.fill_(gamma);
      layer->bias.fill_(beta);
    }
    OracleOptions options;
    options.activation = activation;
    expected = oracle(x, layer->weight, layer->bias, {}, {}, d_z, options);
    const Tensor leaf = x.to(device()).requires_grad_();
    z = layer->forward(leaf.add(0));
    z.backward(d_z.to(device()));
    d_x = reference(leaf.grad());
  }
  double d_x_error() const { return ((d_x - expected.d_x).norm() / expected.d_x.norm()).item<double>(); }
  /// In units of ||d_y||.
  double d_gamma_error() const {
    return ((reference(layer->weight.grad()) - expected.d_weight).abs() / expected.d_y.norm()).item<double>();
  }
  Tensor z;
};

double measured_rms(torch::Dtype dtype) { return dtype == torch::kHalf ? 2.07e-4 : 1.66e-3; }

TEST(Traps, SmallGammaCostsNoMoreThanTheStoredBitsForbid) {
  for (const auto dtype : {torch::kBFloat16, torch::kHalf}) {
    for (const double gamma : {1.0, 0.3, 0.1, 0.03}) {
      for (const double beta : {0.0, 0.3}) {
        const GuardCase c(gamma, beta, dtype);
        const double e = measured_rms(dtype) * std::sqrt(1 + beta * beta / (gamma * gamma));
        // Bounds of the maths note: 0.25 e (fp16 + 1e-3) plus one rounding of the stored d_x; e*sqrt(m).
        const double rounding = dtype == torch::kHalf ? 1e-3 : 1.7e-3;
        EXPECT_LE(c.d_x_error(), 0.25 * e + rounding) << gamma << " " << beta << " " << dtype;
        EXPECT_LE(c.d_gamma_error(), e * std::sqrt(double(kRows))) << gamma << " " << beta << " " << dtype;
      }
    }
  }
}

TEST(Traps, LargeBetaOverGammaStaysWithinTheMeasuredBounds) {
  const struct { double ratio, d_x; } rows[] = {{10, .0015}, {33, .004}, {100, .011}};
  for (const auto& row : rows) {
    const GuardCase c(1.0 / row.ratio, 1.0, torch::kBFloat16);
    const double rounding = 1.7e-3;  // of d_x itself, stored in bfloat16: 2^-8/sqrt(12)*1.5
    EXPECT_LE(c.d_x_error(), row.d_x + rounding) << row.ratio;
  }
}

TEST(Traps, GammaZeroGivesBatchNormsOutputAndFiniteGradients) {
  for (const auto dtype : {torch::kFloat, torch::kBFloat16, torch::kHalf}) {
    for (const double beta : {0.0, 0.01, 1.0}) {
      const GuardCase c(0.0, beta, dtype);
      EXPECT_TRUE(torch::equal(reference(c.z), c.expected.z.to(dtype).to(torch::kDouble)));
      EXPECT_EQ(c.d_x.abs().max().item<double>(), 0);
      EXPECT_TRUE(c.layer->weight.grad().isfinite().all().item<bool>());
      EXPECT_TRUE(c.layer->bias.grad().isfinite().all().item<bool>());
    }
  }
}

TEST(Traps, TinyGammaGivesBatchNormsOutputToOneRounding) {
  for (const auto dtype : {torch::kFloat, torch::kBFloat16, torch::kHalf}) {
    for (const double gamma : {0.0, 1e-8, 1e-6}) {
      for (const double beta : {0.0, 0.01, 1.0}) {
        const GuardCase c(gamma, beta, dtype);
        const Tolerance t(c.x);
        expect_close(c.z, c.expected.z,
                     t.z(reference(c.x), c.expected, reference(c.layer->weight), reference(c.layer->bias), 1e-5), "z");
      }
    }
  }
}

TEST(Traps, FlippedSignsMirrorTheResult) {
  const GuardCase a(0.7, 0.2, torch::kBFloat16, "identity"), b(-0.7, -0.2, torch::kBFloat16, "identity");
  EXPECT_TRUE(torch::equal(a.z, -b.z));
  EXPECT_TRUE(torch::equal(a.d_x, -b.d_x));
  EXPECT_TRUE(torch::equal(a.layer->weight.grad(), b.layer->weight.grad()));
}

TEST(Traps, UnderflowedNegativesKeepTheirSign) {
  // fp16, beta 0, gamma 1e-3, slope 0.01: many negative outputs round to -0.0; z >= 0 would take them for positive.
  const GuardCase c(1e-3, 0.0, torch::kHalf);
  EXPECT_LE(c.d_x_error(), 2e-3);
}

TEST(Traps, RoundedEluTailHasNoInfiniteInverse) {
  for (const auto dtype : {torch::kFloat, torch::kBFloat16, torch::kHalf}) {
    InPlaceABN abn(ABNOptions(1).activation("elu").activation_param(1.0));
    abn->to(device());
    {
      torch::NoGradGuard no_grad;
      abn->weight.fill_(30);
    }
    const Tensor x = torch::randn({4096, 1}).to(device(), dtype).requires_grad_();
    const Tensor z = abn->forward(x.add(0));
    ASSERT_GT((z == -1).sum().item<int64_t>(), 100) << "the test needs outputs rounded to -alpha";
    z.backward(torch::randn_like(z));
    EXPECT_TRUE(x.grad().isfinite().all().item<bool>());
    EXPECT_TRUE(abn->weight.grad().isfinite().all().item<bool>());
  }
}

TEST(Traps, NaNAndInfinityReachOutputAndGradients) {
  for (const double bad : {std::nan(""), double(INFINITY)}) {
    for (const auto dtype : {torch::kFloat, torch::kBFloat16}) {
      for (const std::string activation : {"leaky_relu", "elu"}) {
        InPlaceABN abn(ABNOptions(3).activation(activation));
        abn->to(device());
        Tensor x = torch::randn({2, 3, 9, 9}).to(device(), dtype);
        x[1][1][2][2] = bad;
        x.requires_grad_();
        const Tensor z = abn->forward(x.add(0));
        z.backward(torch::ones_like(z));
        EXPECT_TRUE(z.select(1, 1).isnan().any().item<bool>());
        EXPECT_TRUE(x.grad().select(1, 1).isnan().any().item<bool>());
        EXPECT_TRUE(abn->weight.grad()[1].isnan().item<bool>());
        EXPECT_TRUE(z.select(1, 0).isfinite().all().item<bool>()) << "other channels stay clean";
      }
    }
  }
}

TEST(Traps, LargeMeansDoNotCancel) {
  const Tensor x = (torch::randn({64, 4, 16, 16}, torch::kDouble) + 1e4).to(torch::kFloat);
  InPlaceABN abn(ABNOptions(4).activation("identity"));
  abn->to(device());
  const Tensor z = abn->forward(x.to(device()).clone());
  const OracleResult o = oracle(x, {}, {}, {}, {}, torch::ones_like(x), {"identity"});
  const Tolerance t(x);
  const Tensor one = torch::ones(4, torch::kDouble);
  expect_close(z, o.z, t.z(reference(x), o, one, one * 0, 1e-5), "z");
}

TEST(Modes, MomentumNoneIsACumulativeAverage) {
  InPlaceABN abn(ABNOptions(3).momentum(std::nullopt));
  abn->to(device());
  Tensor mean = torch::zeros(3, torch::kDouble);
  for (int i = 1; i <= 4; ++i) {
    const Tensor x = random_input({4, 3, 5, 5}, i);
    mean += channel_sum(reference(x)) / 100;
    abn->forward(x.to(device()).clone());
    expect_close(abn->running_mean, mean / i, torch::full({3}, 1e-6, torch::kDouble), "running_mean");
    EXPECT_EQ(abn->num_batches_tracked.item<int64_t>(), i);
  }
}

TEST(Modes, WithoutRunningStatisticsEvaluationUsesTheBatch) {
  InPlaceABN abn(ABNOptions(3).track_running_stats(false));
  abn->to(device());
  EXPECT_FALSE(abn->running_mean.defined());
  const Tensor x = random_input({4, 3, 5, 5}, 1).to(device());
  const Tensor trained = abn->forward(x.clone());
  abn->eval();
  EXPECT_TRUE(torch::equal(abn->forward(x.clone()), trained));
}

TEST(Modes, EvaluationTakesAnyActivationAndEmptyBatches) {
  for (const std::string activation : {"relu", "leaky_relu"}) {
    InPlaceABN abn(ABNOptions(3).activation(activation).activation_param(0.0));
    abn->to(device());
    abn->eval();
    torch::NoGradGuard no_grad;
    const Tensor x = random_input({4, 3, 5, 5}, 1).to(device());
    const Tensor expected = torch::relu(
        at::batch_norm(x, abn->weight, abn->bias, abn->running_mean, abn->running_var, false, 0.1, 1e-5, false));
    EXPECT_TRUE(torch::allclose(abn->forward(x.clone()), expected, 1e-5, 1e-6));
    for (const std::vector<int64_t>& empty :
         {std::vector<int64_t>{0, 3, 5, 5}, {2, 3, 0, 5}, {2, 3, 5, 0}, {2, 3, 0}}) {
      EXPECT_EQ(abn->forward(torch::zeros(empty).to(device())).numel(), 0);
    }
  }
}

TEST(Modes, ABNKeepsItsInputAndSupportsRelu) {
  ABN abn(ABNOptions(3).activation("relu"));
  abn->to(device());
  const Tensor x = random_input({4, 3, 5, 5}, 1).to(device());
  const Tensor before = x.clone();
  EXPECT_GE(abn->forward(x).min().item<double>(), 0);
  EXPECT_TRUE(torch::equal(x, before));
}

TEST(Modes, ModulesCloneMoveAndPrint) {
  InPlaceABN abn(ABNOptions(3).activation("elu").activation_param(0.5).momentum(std::nullopt));
  abn->to(device());
  abn->forward(random_input({4, 3, 5, 5}, 1).to(device()));
  abn->eval();
  auto copy = std::dynamic_pointer_cast<nn::InPlaceABNImpl>(abn->clone());
  ASSERT_TRUE(copy);
  EXPECT_TRUE(torch::equal(copy->running_var, abn->running_var));
  EXPECT_FALSE(copy->is_training());
  {
    torch::NoGradGuard no_grad;
    copy->weight.fill_(7);
  }
  EXPECT_FALSE(torch::equal(copy->weight, abn->weight)) << "a clone shares nothing";
  std::ostringstream text;
  text << abn;
  EXPECT_THAT(text.str(), HasSubstr("iabn::nn::InPlaceABN(3, eps=1e-05, momentum=None"));
  EXPECT_THAT(text.str(), HasSubstr("activation=elu[0.5]"));
  abn->to(torch::kHalf);
  abn->train();
  abn->forward(random_input({4, 3, 5, 5}, 1).to(device(), torch::kHalf));
  EXPECT_EQ(abn->num_batches_tracked.scalar_type(), torch::kLong);
}

TEST(Conversion, BatchNormToInPlaceAndBackKeepsOutputsAndWeights) {
  torch::nn::BatchNorm2d batch_norm(torch::nn::BatchNormOptions(8).eps(1e-3).momentum(0.2));
  {
    torch::NoGradGuard no_grad;
    batch_norm->weight.uniform_(-1.5, 1.5);
    batch_norm->bias.uniform_(-0.5, 0.5);
  }
  batch_norm->to(device());
  const Tensor x = random_input({4, 8, 5, 5}, 1).to(device());
  batch_norm->forward(x);
  for (const bool training : {false, true}) {
    batch_norm->train(training);
    const auto conversion = nn::to_inplace_abn(batch_norm, "leaky_relu", 0.01, torch::kFloat);
    ASSERT_TRUE(conversion.in_place) << conversion.reason;
    const auto back = nn::to_batch_norm<torch::nn::BatchNorm2d>(*conversion.layer);
    EXPECT_TRUE(torch::equal(back->weight, batch_norm->weight));
    EXPECT_TRUE(torch::equal(back->running_var, batch_norm->running_var));
    EXPECT_EQ(back->options.eps(), 1e-3);
    EXPECT_EQ(back->is_training(), training);
    const Tensor expected = at::leaky_relu(batch_norm->forward(x), 0.01);
    EXPECT_TRUE(torch::allclose(conversion.layer->forward(x.clone()), expected, 1e-5, 1e-5));
  }
}

TEST(Conversion, UnsafeChannelsAndReluStayBatchNormAndSaySo) {
  torch::nn::BatchNorm2d batch_norm(4);
  auto relu = nn::to_inplace_abn(batch_norm, "relu", 0, torch::kFloat);
  EXPECT_FALSE(relu.in_place);
  EXPECT_THAT(relu.reason, HasSubstr("cannot be inverted"));
  {
    torch::NoGradGuard no_grad;
    batch_norm->weight[1] = 0;     // no channel value survives
    batch_norm->weight[2] = 0.01;  // |beta/gamma| = 100: unsafe in bfloat16, safe in float32
    batch_norm->bias[2] = 1;
  }
  const auto bfloat16 = nn::to_inplace_abn(batch_norm, "leaky_relu", 0.01, torch::kBFloat16);
  EXPECT_FALSE(bfloat16.in_place);
  EXPECT_THAT(bfloat16.reason, HasSubstr("2 of 4 channels"));
  EXPECT_THAT(nn::to_inplace_abn(batch_norm, "leaky_relu", 0.01, torch::kFloat).reason, HasSubstr("1 of 4 channels"));
}

TEST(Conversion, LegacyGammaBecomesTheSignedValueItStandsFor) {
  InPlaceABN legacy(ABNOptions(8).gamma(nn::GammaMode::kLegacy));
  {
    torch::NoGradGuard no_grad;
    legacy->weight.uniform_(-1.5, 1.5);
  }
  legacy->to(device());
  legacy->eval();
  auto batch_norm = nn::to_batch_norm<torch::nn::BatchNorm2d>(*legacy);
  const Tensor x = random_input({4, 8, 5, 5}, 1).to(device());
  const Tensor expected = at::leaky_relu(batch_norm->forward(x), 0.01);
  EXPECT_TRUE(torch::allclose(legacy->forward(x.clone()), expected, 1e-5, 1e-5));
}

}  // namespace
}  // namespace iabn::test
