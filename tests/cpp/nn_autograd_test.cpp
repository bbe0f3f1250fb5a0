// How the layer behaves under autograd: gradient checks, gradients only where asked, misuse, memory, gradients in any
// layout, parameters of any kind.

#include <torch/autograd.h>
#include <torch/nn/functional/conv.h>

#include "iabn/nn/abn.h"
#include "iabn/train/memory_meter.h"
#include "tests/cpp/support.h"

namespace iabn::test {
namespace {

using nn::ABNOptions;
using nn::InPlaceABN;
using torch::Tensor;

Tensor input(const std::vector<int64_t>& shape, torch::Dtype dtype = torch::kFloat) {
  return random_input(shape, 3).to(device(), dtype);
}

InPlaceABN layer(const ABNOptions& options, torch::Dtype dtype = torch::kFloat) {
  InPlaceABN result(options);
  result->to(device(), dtype);
  torch::NoGradGuard no_grad;
  if (result->weight.defined()) result->weight.uniform_(0.5, 1.5), result->bias.uniform_(-0.5, 0.5);
  return result;
}

/// Central differences of sum(d_z * layer(x)) with respect to every value of x, weight and bias, in float64.
void check_gradients(InPlaceABN abn, const std::vector<int64_t>& shape) {
  Tensor x = input(shape, torch::kDouble).requires_grad_();
  const Tensor d_z = torch::randn(shape, torch::kDouble).to(device());
  const auto loss = [&] { return (abn->forward(x * 1) * d_z).sum(); };
  loss().backward();
  for (Tensor parameter : {x, abn->weight, abn->bias}) {
    const Tensor analytic = parameter.grad().clone();
    Tensor numeric = torch::zeros_like(analytic);
    torch::NoGradGuard no_grad;
    Tensor flat = parameter.view(-1), flat_numeric = numeric.view(-1);
    const double h = 1e-6;
    for (int64_t i = 0; i < flat.numel(); ++i) {
      flat[i] += h;
      const double above = loss().item<double>();
      flat[i] -= 2 * h;
      const double below = loss().item<double>();
      flat[i] += h;
      flat_numeric[i] = (above - below) / (2 * h);
    }
    // Central differences: truncation h^2 ~ 1e-12, cancellation 2^-53 * |loss| / h ~ 1e-9.
    EXPECT_LT((analytic - numeric).abs().max().item<double>(), 1e-7);
  }
}

TEST(InPlaceABNAutograd, GradientsEqualCentralDifferences) {
  for (const auto& [activation, param] : {std::pair{"leaky_relu", 0.1}, {"elu", 0.7}, {"identity", 0.0}}) {
    SCOPED_TRACE(activation);
    const auto options = ABNOptions(3).activation(activation).activation_param(param);
    check_gradients(layer(options, torch::kDouble), {4, 3, 2, 3});
    check_gradients(layer(ABNOptions(options).gamma(nn::GammaMode::kLegacy), torch::kDouble), {4, 3, 2, 3});
    InPlaceABN frozen = layer(options, torch::kDouble);
    frozen->eval();
    check_gradients(frozen, {4, 3, 2, 3});
  }
}

TEST(InPlaceABNAutograd, OnlyAskedGradientsAreComputed) {
  for (const bool training : {true, false}) {
    for (int mask = 1; mask < 8; ++mask) {
      InPlaceABN abn = layer(ABNOptions(5));
      abn->train(training);
      const Tensor x = input({4, 5, 6, 6}).requires_grad_(mask & 1);
      abn->weight.set_requires_grad(mask & 2);
      abn->bias.set_requires_grad(mask & 4);
      InPlaceABN all = layer(ABNOptions(5));
      all->train(training);
      {
        torch::NoGradGuard no_grad;
        all->weight.copy_(abn->weight);
        all->bias.copy_(abn->bias);
      }
      const Tensor x_all = x.detach().clone().requires_grad_();
      abn->forward(x * 1).square().sum().backward();
      all->forward(x_all * 1).square().sum().backward();
      EXPECT_EQ(x.grad().defined(), bool(mask & 1));
      EXPECT_EQ(abn->weight.grad().defined(), bool(mask & 2));
      EXPECT_EQ(abn->bias.grad().defined(), bool(mask & 4));
      if (mask & 1) {
        EXPECT_TRUE(torch::equal(x.grad(), x_all.grad()));
      }
      if (mask & 2) {
        EXPECT_TRUE(torch::equal(abn->weight.grad(), all->weight.grad()));
      }
      if (mask & 4) {
        EXPECT_TRUE(torch::equal(abn->bias.grad(), all->bias.grad()));
      }
    }
  }
}

TEST(InPlaceABNAutograd, UsingTheOverwrittenInputRaisesPyTorchsVersionError) {
  InPlaceABN abn = layer(ABNOptions(5));
  const Tensor w = input({2, 5, 4, 4}).requires_grad_();
  const Tensor x = w.exp();  // exp keeps its output, which the layer overwrites
  abn->forward(x);
  EXPECT_THAT(message_of([&] { x.sum().backward(); }), testing::HasSubstr("modified by an inplace operation"));
}

TEST(InPlaceABNAutograd, OverwritingTheOutputRaisesPyTorchsVersionError) {
  InPlaceABN abn = layer(ABNOptions(5));
  Tensor z = abn->forward(input({2, 5, 4, 4}).requires_grad_() * 1);
  z.mul_(2);
  EXPECT_THAT(message_of([&] { z.sum().backward(); }), testing::HasSubstr("modified by an inplace operation"));
}

TEST(InPlaceABNAutograd, ALeafThatNeedsAGradientIsRefused) {
  InPlaceABN abn = layer(ABNOptions(5));
  const Tensor x = input({2, 5, 4, 4}).requires_grad_();
  const Tensor before = x.detach().clone(), mean = abn->running_mean.clone();
  EXPECT_THAT(message_of([&] { abn->forward(x); }), testing::HasSubstr("leaf Variable that requires grad"));
  EXPECT_TRUE(torch::equal(x.detach(), before)) << "a refused input is left as it was";
  EXPECT_TRUE(torch::equal(abn->running_mean, mean));
  EXPECT_EQ(abn->num_batches_tracked.item<int64_t>(), 0);
}

TEST(InPlaceABNAutograd, ChunksAndInferenceTensorsAreRefusedUntouched) {
  InPlaceABN abn = layer(ABNOptions(5));
  const Tensor base = input({4, 5, 4, 4}).requires_grad_() * 1;
  const Tensor before = base.detach().clone();
  EXPECT_THAT(message_of([&] { abn->forward(base.chunk(2)[0]); }), testing::HasSubstr("view"));
  EXPECT_TRUE(torch::equal(base.detach(), before));
  Tensor x;
  {
    const c10::InferenceMode inference;
    x = input({4, 5, 4, 4});
  }
  EXPECT_THAT(message_of([&] { abn->forward(x); }), testing::HasSubstr("nference"));
  EXPECT_EQ(abn->num_batches_tracked.item<int64_t>(), 0);
}

TEST(InPlaceABNAutograd, ATrainingPassBeforeAFrozenOnesBackwardChangesNothing) {
  const auto gradient = [&](bool train_between) {
    InPlaceABN abn = layer(ABNOptions(5).affine(false));
    abn->eval();
    const Tensor x = input({4, 5, 4, 4}).requires_grad_();
    const Tensor z = abn->forward(x * 1);
    abn->train();
    if (train_between) abn->forward(input({4, 5, 4, 4}) * 9);
    z.square().sum().backward();
    return x.grad();
  };
  EXPECT_TRUE(torch::equal(gradient(true), gradient(false)));
}

TEST(InPlaceABNAutograd, AViewsGraphIsFreedWithoutBackward) {
  InPlaceABN abn = layer(ABNOptions(5));
  const Tensor leaf = input({4, 5, 4, 4}).requires_grad_();
  {
    const Tensor base = leaf * 1;
    const Tensor z = abn->forward(base.narrow(0, 1, 2));
  }
  EXPECT_EQ(leaf.use_count(), 1) << "a cycle keeps the graph, and so the leaf, alive";
}

TEST(InPlaceABNAutograd, WeightOrBiasAloneGetTheirGradient) {
  for (const bool with_weight : {true, false}) {
    const Tensor parameter = torch::rand(5).to(device()).add(0.5).requires_grad_();
    const Tensor other = (with_weight ? torch::zeros(5) : torch::ones(5)).to(device()).requires_grad_();
    const Tensor none;
    const Tensor x = input({4, 5, 4, 4}), d_z = torch::randn_like(x);
    nn::inplace_abn(x.clone(), with_weight ? parameter : none, with_weight ? none : parameter, {}, {}, {})
        .backward(d_z);
    const Tensor alone = parameter.grad().clone();
    parameter.mutable_grad() = Tensor();
    nn::inplace_abn(x.clone(), with_weight ? parameter : other, with_weight ? other : parameter, {}, {}, {})
        .backward(d_z);
    EXPECT_TRUE(torch::equal(alone, parameter.grad())) << "weight " << with_weight;
  }
}

TEST(InPlaceABNAutograd, DoubleBackwardIsRefused) {
  InPlaceABN abn = layer(ABNOptions(5));
  const Tensor x = input({2, 5, 4, 4}).requires_grad_();
  const Tensor loss = abn->forward(x * 1).square().sum();
  EXPECT_THAT(message_of([&] { torch::autograd::grad({loss}, {x}, {}, true, /*create_graph=*/true); }),
              testing::HasSubstr("double backward is not supported"));
}

TEST(InPlaceABNAutograd, TheVersionCounterCountsEveryOverwrite) {
  InPlaceABN abn = layer(ABNOptions(5));
  for (const bool training : {true, false}) {
    abn->train(training);
    Tensor x = input({2, 5, 4, 4});
    const auto before = x._version();
    abn->forward(x);
    EXPECT_GT(x._version(), before) << "training " << training;
  }
}

TEST(InPlaceABNAutograd, ExpandedAndOtherwiseLaidOutGradientsGiveTheSameResult) {
  const std::vector<int64_t> shape{4, 6, 5, 7};
  const auto gradient = [&](const Tensor& d_z) {
    InPlaceABN abn = layer(ABNOptions(6).affine(false));
    const Tensor x = input(shape).requires_grad_();
    abn->forward(x * 1).backward(d_z);
    return x.grad();
  };
  const Tensor d_z = torch::randn({1, 6, 1, 1}).to(device()).expand(shape);
  const Tensor expected = gradient(d_z.contiguous());
  EXPECT_TRUE(torch::equal(gradient(d_z), expected)) << "expanded";
  EXPECT_TRUE(torch::equal(gradient(d_z.contiguous(torch::MemoryFormat::ChannelsLast)), expected)) << "channels-last";
  const Tensor ones = torch::ones({}).to(device()).expand(shape);
  EXPECT_TRUE(torch::equal(gradient(ones), gradient(ones.contiguous()))) << "from sum()";
}

TEST(InPlaceABNAutograd, BackwardNeverWritesIntoItsInputs) {
  InPlaceABN abn = layer(ABNOptions(6));
  const Tensor x = input({4, 6, 5, 7}).requires_grad_();
  const Tensor z = abn->forward(x * 1);
  const Tensor z_before = z.detach().clone();
  const Tensor d_z = torch::randn_like(z), d_z_before = d_z.clone();
  z.backward(d_z, /*retain_graph=*/true);
  EXPECT_TRUE(torch::equal(z.detach(), z_before));
  EXPECT_TRUE(torch::equal(d_z, d_z_before));
  const Tensor first = x.grad().clone();
  x.mutable_grad() = Tensor();
  z.backward(d_z);
  EXPECT_TRUE(torch::equal(x.grad(), first)) << "a second backward pass over a retained graph";
}

TEST(InPlaceABNAutograd, NonLeafParametersGetGradients) {
  const Tensor raw = torch::ones(6).to(device()).requires_grad_();
  const Tensor x = input({4, 6, 5, 7});
  const Tensor z = nn::inplace_abn(x, raw * 2, raw.square(), {}, {}, {}, {});
  z.square().sum().backward();
  EXPECT_TRUE(raw.grad().defined());
  EXPECT_GT(raw.grad().abs().sum().item<double>(), 0);
}

TEST(InPlaceABNAutograd, HalfParametersOfAHalfNetworkWork) {
  for (const auto dtype : {torch::kHalf, torch::kBFloat16}) {
    InPlaceABN abn = layer(ABNOptions(6), dtype);
    const Tensor x = input({4, 6, 5, 7}, dtype).requires_grad_();
    const Tensor before = abn->running_mean.clone();
    abn->forward(x * 1).square().sum().backward();
    EXPECT_EQ(abn->weight.grad().scalar_type(), dtype);
    EXPECT_FALSE(torch::equal(before, abn->running_mean));
    EXPECT_EQ(abn->num_batches_tracked.item<int64_t>(), 1);
  }
}

/// Memory is the product: the layer holds its output alone, and backward takes d_x and nothing else of that size.
TEST(InPlaceABNMemory, HoldsOneTensorAndBackwardTakesOneMore) {
  const std::vector<int64_t> shape{16, 64, 56, 56};
  for (const auto format : {torch::MemoryFormat::Contiguous, torch::MemoryFormat::ChannelsLast}) {
    for (const auto dtype : {torch::kFloat, torch::kBFloat16}) {
      InPlaceABN abn = layer(ABNOptions(64));
      Tensor x = torch::randn(shape).to(device(), dtype).contiguous(format).requires_grad_();
      const auto tensor = static_cast<double>(x.nbytes());
      train::MemoryMeter meter(device());
      Tensor input = x.add(0);  // its backward hands d_x on without a copy
      const Tensor d_z = torch::ones_like(input);
      auto before = static_cast<double>(meter.current());
      meter.reset_peak();
      const Tensor z = abn->forward(input);
      EXPECT_LE(meter.current() - before, 0.01 * tensor) << "forward keeps more than the overwritten input";
      // Partial sums of the blocks of a launch: bounded by the device's size, whatever the tensor's.
      EXPECT_LE(meter.peak() - before, 0.01 * tensor + (512 << 10)) << "forward takes a temporary";
      before = static_cast<double>(meter.current());
      meter.reset_peak();
      const auto grads = torch::autograd::grad({z}, {x, abn->weight, abn->bias}, {d_z});
      EXPECT_LE(meter.peak() - before, 1.05 * tensor) << "backward takes more than d_x";
      EXPECT_GE(meter.peak() - before, 1.0 * tensor) << "the meter saw nothing";
    }
  }
}

}  // namespace
}  // namespace iabn::test
