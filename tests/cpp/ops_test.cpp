// The operators: their error messages, the split steps a synchronised layer runs, layouts, determinism over threads.

#include <ATen/Parallel.h>
#include <torch/torch.h>

#include <functional>
#include <limits>

#include "iabn/nn/abn.h"
#include "iabn/nn/ops.h"
#include "tests/cpp/support.h"

namespace iabn::test {
namespace {

using nn::InPlaceABNFuncOptions;
using nn::ops::OptionalTensor;
using testing::HasSubstr;
using torch::Tensor;

Tensor on_device(const Tensor& t) { return t.to(device()); }
Tensor input() { return on_device(random_input({2, 4, 3, 3}, 1)); }

/// inplace_abn on x with a weight, as a user would call it.
Tensor call(const Tensor& x, const Tensor& weight = {}, const ActivationSpec& activation = {}, bool training = true) {
  InPlaceABNFuncOptions options;
  options.activation = activation;
  options.training = training;
  const Tensor mean = training ? Tensor() : on_device(torch::zeros(x.size(1)));
  const Tensor var = training ? Tensor() : on_device(torch::ones(x.size(1)));
  return nn::inplace_abn(x, weight, {}, mean, var, {}, options);
}

struct BadInput {
  std::function<void()> run;
  std::vector<std::string> parts;  // all must be in the message
};

TEST(Messages, NameTheOperatorTheArgumentWhatCameAndWhatToDo) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const auto f32 = torch::kFloat;
  const std::vector<BadInput> table{
      {[] { call(input(), on_device(torch::ones(3))); },
       {"abn_forward_: weight must have shape [4] (channels of x), got [3]", "num_features = 4"}},
      {[] { call(input().to(torch::kLong)); }, {"abn_forward_: x must be float32", "got int64", ".to(torch.float32)"}},
      {[] { call(input().to(torch::kComplexFloat)); }, {"x must be float32", "got complex64"}},
      {[] { call(input().to(torch::kDouble), on_device(torch::ones(4, torch::kFloat))); },
       {"weight must be float64 for float64 x, got float32", "convert"}},
      {[] { call(input(), on_device(torch::ones(4, torch::kBFloat16))); },
       {"weight must be float32 for float32 x, got bfloat16"}},
      {[] { call(input()[0][0][0]); }, {"x must have shape [N, C, ...]", "got [3]", "unsqueeze"}},
      {[&] {
         call(on_device(torch::zeros({0, 4, 3, 3}, f32)));
       },
       {"more than 1 value per channel, got 0", "[0, 4, 3, 3]"}},
      {[&] {
         call(on_device(torch::zeros({2, 0, 3, 3}, f32)));
       },
       {"at least one channel"}},
      {[&] {
         call(on_device(torch::zeros({1, 4, 1, 1}, f32)));
       },
       {"more than 1 value per channel, got 1", "larger batch, or evaluation mode"}},
      {[] {
         call(input(), {}, {Activation::kLeakyReLU, 0.0});
       },
       {"slope of leaky_relu must be above 0 in training", "got 0", "ABN"}},
      {[] {
         call(input(), {}, {Activation::kLeakyReLU, -0.1});
       },
       {"must be above 0", "got -0.1"}},
      {[&] {
         call(input(), {}, {Activation::kLeakyReLU, nan});
       },
       {"slope of leaky_relu must be finite in float32, got nan"}},
      {[] {
         call(input(), {}, {Activation::kELU, 0.0});
       },
       {"alpha of elu must be above 0"}},
      {[&] {
         call(input(), {}, {Activation::kELU, nan});
       },
       {"alpha of elu must be finite"}},
      {[] {
         call(input(), {}, {Activation::kReLU, 0.0});
       },
       {"relu cannot be inverted", "leaky_relu", "ABN"}},
      {[] {
         call(input(), {}, {Activation{9}, 0.0});
       },
       {"activation must be 0 (identity)", "got 9"}},
      {[] {
         call(input().narrow(0, 0, 1).expand({2, 4, 3, 3}));
       },
       {"overlaps itself", "clone"}},
      {[] {
         call(input().as_strided({2, 4, 3, 3}, {9, 9, 3, 1}));
       },
       {"overlaps itself"}},
      {[] { call(Tensor()); }, {"x is undefined"}},
      {[] { nn::parse_activation("swish", 0); }, {"\"leaky_relu\", \"elu\", \"identity\" or \"relu\", got \"swish\""}},
      {[] {
         InPlaceABNFuncOptions options;
         options.training = false;
         nn::inplace_abn(input(), {}, {}, {}, {}, {}, options);
       },
       {"needs running_mean and running_var"}},
      {[] {
         InPlaceABNFuncOptions options;
         options.momentum = 1.5;
         nn::inplace_abn(input(), {}, {}, {}, {}, {}, options);
       },
       {"momentum must be between 0 and 1", "got 1.5"}},
      {[&] {
         InPlaceABNFuncOptions options;
         options.eps = -1;
         nn::inplace_abn(input(), {}, {}, {}, {}, {}, options);
       },
       {"eps must be finite and not negative, got -1"}},
      {[] {
         call(input().add(0).requires_grad_().add(0), {}, {Activation::kLeakyReLU, -0.5}, /*training=*/false);
       },
       {"must not be below 0 where gradients are wanted"}},
      {[] { nn::InPlaceABN(nn::ABNOptions(0)); }, {"num_features must be positive"}},
      {[] { nn::make_norm_act("fancy", nn::ABNOptions(3)); }, {"\"standard\", \"inplace\" or \"sync\", got \"fancy\""}},
  };
  for (const BadInput& bad : table) {
    const std::string message = message_of(bad.run);
    for (const std::string& part : bad.parts) EXPECT_THAT(message, HasSubstr(part));
  }
}

TEST(Messages, ARefusedInputIsLeftAsItWas) {
  const Tensor x = input(), before = x.clone();
  message_of([&] { call(x, on_device(torch::ones(3))); });
  message_of([&] { call(x, {}, {Activation::kReLU, 0}); });
  EXPECT_TRUE(torch::equal(x, before));
}

TEST(Messages, DevicesMustAgree) {
  if (device().is_cpu()) GTEST_SKIP() << "needs a second device: run with --device cuda";
  EXPECT_THAT(message_of([] { call(input(), torch::ones(4)); }), HasSubstr("weight must be on cuda:0"));
}

template <class Signature>
auto op(const char* name) {
  return nn::ops::find<Signature>(name);
}

/// The steps of two processes in one: statistics merged over two halves, sums added, equal the fused layer on the
/// whole.
TEST(SplitSteps, OfTwoHalvesEqualTheFusedLayerOnTheWhole) {
  for (const auto& [activation, param] : {std::pair<int64_t, double>{1, 0.01}, {2, 1.0}, {0, 0.0}}) {
    const Tensor x = on_device(random_input({6, 5, 7, 7}, 1).to(torch::kDouble));
    const Tensor d_z = on_device(torch::randn({6, 5, 7, 7}, torch::kDouble));
    const OptionalTensor weight = on_device(torch::rand(5, torch::kDouble) + 0.5);
    const OptionalTensor bias = on_device(torch::rand(5, torch::kDouble) - 0.5);
    const double eps = 1e-5;

    Tensor whole = x.clone();
    const auto [mean, var] = nn::ops::abn_forward_(whole, weight, bias, {}, {}, {}, 0.1, eps, activation, param, 0);
    const auto [d_x, d_weight, d_bias] =
        nn::ops::abn_backward(whole, d_z, var, weight, bias, true, eps, activation, param, 0, true, true);

    const auto statistics = op<Tensor(const Tensor&)>("iabn::abn_statistics");
    const auto reduce =
        op<Tensor(const Tensor&, const Tensor&, const OptionalTensor&, int64_t, double)>("iabn::abn_backward_reduce");
    const auto apply =
        op<Tensor(const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, const OptionalTensor&,
                  const OptionalTensor&, double, int64_t, double, int64_t)>("iabn::abn_backward_apply");
    const auto parameters =
        op<std::tuple<Tensor, Tensor>(const Tensor&, const Tensor&, const Tensor&, const OptionalTensor&, double,
                                      int64_t)>("iabn::abn_backward_parameters");

    // Uneven halves, and a third process with no samples.
    const std::vector<std::pair<int64_t, int64_t>> ranges{{0, 4}, {4, 6}, {6, 6}};
    Tensor count = torch::zeros({}, x.options()), sum = torch::zeros({5}, x.options()), m2 = sum.clone();
    for (const auto& [begin, end] : ranges) {
      const Tensor packed = statistics.call(x.slice(0, begin, end));
      count = count + packed[0][0];
      sum = sum + packed[0] * packed[1];
    }
    const Tensor merged_mean = sum / count;
    for (const auto& [begin, end] : ranges) {
      const Tensor packed = statistics.call(x.slice(0, begin, end));
      m2 = m2 + packed[2] + packed[0] * (packed[1] - merged_mean).square();
    }
    const Tensor merged_var = m2 / count;
    EXPECT_TRUE(torch::allclose(merged_mean, mean, 1e-12, 1e-13));
    EXPECT_TRUE(torch::allclose(merged_var, var, 1e-12, 1e-13));

    std::vector<Tensor> z, sums;
    Tensor total = torch::zeros({4, 5}, x.options());
    for (const auto& [begin, end] : ranges) {
      z.push_back(x.slice(0, begin, end).clone());
      nn::ops::abn_apply_(z.back(), merged_mean, merged_var, weight, bias, eps, activation, param, 0);
      EXPECT_TRUE(torch::allclose(z.back(), whole.slice(0, begin, end), 1e-12, 1e-12));
      sums.push_back(reduce.call(z.back(), d_z.slice(0, begin, end), bias, activation, param));
      total = total + sums.back();
    }
    Tensor sum_d_weight = torch::zeros({5}, x.options()), sum_d_bias = sum_d_weight.clone();
    for (size_t i = 0; i < ranges.size(); ++i) {
      const auto& [begin, end] = ranges[i];
      const Tensor part =
          apply.call(z[i], d_z.slice(0, begin, end), total, count, merged_var, weight, bias, eps, activation, param, 0);
      EXPECT_TRUE(torch::allclose(part, d_x.slice(0, begin, end), 1e-10, 1e-11));
      const auto [w, b] = parameters.call(sums[i], total, count, weight, eps, 0);
      sum_d_weight = sum_d_weight + w;
      sum_d_bias = sum_d_bias + b;
    }
    EXPECT_TRUE(torch::allclose(sum_d_weight, d_weight, 1e-10, 1e-11));
    EXPECT_TRUE(torch::allclose(sum_d_bias, d_bias, 1e-10, 1e-11));
  }
}

TEST(Layouts, AnyStridesGiveTheContiguousResult) {
  const Tensor base = on_device(random_input({4, 6, 8, 10}, 1));
  const std::vector<std::function<Tensor(const Tensor&)>> views{
      [](const Tensor& t) { return t.slice(2, 0, 8, 2); },
      [](const Tensor& t) { return t.transpose(2, 3); },
      [](const Tensor& t) { return t.slice(1, 1, 5); },
      [](const Tensor& t) {
        return t.permute({2, 1, 0, 3});
      },
      [](const Tensor& t) { return t.transpose(0, 1); },
      [](const Tensor& t) { return t.flatten(2).slice(2, 3, 50); },
      [](const Tensor& t) { return t.slice(3, 1, 9).slice(0, 0, 1); }};
  for (size_t i = 0; i < views.size(); ++i) {
    for (const auto format : {torch::MemoryFormat::Contiguous, torch::MemoryFormat::ChannelsLast}) {
      Tensor x = base.clone(format);
      const Tensor outside = x.clone();
      Tensor view = views[i](x);
      const Tensor expected = call(view.contiguous().clone());
      EXPECT_TRUE(torch::allclose(call(view), expected, 1e-5, 1e-5)) << "view " << i;
      // Whatever lies between the view's elements stays untouched.
      Tensor mask = torch::ones_like(x);
      views[i](mask).zero_();
      EXPECT_TRUE(torch::equal(x * mask, outside * mask)) << "view " << i;
    }
  }
}

TEST(Determinism, BitsDoNotDependOnTheNumberOfThreads) {
  if (device().is_cuda()) GTEST_SKIP() << "about CPU threads";
  const int before = at::get_num_threads();
  for (const auto format : {torch::MemoryFormat::Contiguous, torch::MemoryFormat::ChannelsLast}) {
    const Tensor x = random_input({8, 48, 28, 28}, 1).contiguous(format), d_z = torch::randn_like(x);
    std::vector<Tensor> results;
    for (const int threads : {1, 2, 3}) {
      at::set_num_threads(threads);
      Tensor z = x.clone();
      const auto [mean, var] = nn::ops::abn_forward_(z, {}, {}, {}, {}, {}, 0.1, 1e-5, 1, 0.01, 0);
      const auto [d_x, w, b] = nn::ops::abn_backward(z, d_z, var, {}, {}, true, 1e-5, 1, 0.01, 0, true, true);
      results.push_back(torch::cat({z.flatten(), d_x.flatten(), w, b, mean, var}));
    }
    at::set_num_threads(before);
    EXPECT_TRUE(torch::equal(results[0], results[1]));
    EXPECT_TRUE(torch::equal(results[0], results[2]));
  }
}

}  // namespace
}  // namespace iabn::test
