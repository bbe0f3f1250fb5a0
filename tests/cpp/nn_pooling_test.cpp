// Pooling: the same numbers as PyTorch's, and what is kept for backward.

#include <limits>
#include <vector>

#include <torch/torch.h>

#include "iabn/nn/pooling.h"
#include "iabn/train/memory_meter.h"
#include "tests/cpp/support.h"

namespace iabn::nn {
namespace {

using test::device;
using torch::Tensor;

struct PoolCase {
  std::vector<int64_t> shape;
  int64_t kernel, stride, padding;
};

// Pictures larger and smaller than the window, windows that leave a rest, and that overlap or do not.
const std::vector<PoolCase> kCases = {
    {{2, 3, 8, 8}, 3, 2, 1},    {{2, 5, 7, 10}, 3, 2, 1}, {{1, 2, 1, 1}, 3, 2, 1},   {{3, 1, 2, 5}, 3, 2, 1},
    {{2, 4, 13, 2}, 3, 2, 1},   {{2, 3, 9, 7}, 2, 2, 0},  {{1, 3, 17, 19}, 5, 3, 2}, {{2, 3, 8, 9}, 3, 1, 1},
    {{2, 2, 40, 33}, 16, 7, 8}, {{0, 3, 8, 8}, 3, 2, 1},
};

// Few different values, so that many windows have ties; one NaN and one infinity of each sign.
Tensor picture(const PoolCase& pool, torch::Dtype dtype, torch::MemoryFormat format) {
  Tensor x = torch::randint(-3, 4, pool.shape, torch::kDouble);
  if (x.numel() > 20) {
    const double inf = std::numeric_limits<double>::infinity();
    x.view(-1)[3] = std::numeric_limits<double>::quiet_NaN();
    x.view(-1)[11] = inf;
    x.view(-1)[17] = -inf;
  }
  return x.to(device(), dtype).contiguous(format).requires_grad_();
}

void expect_same(const Tensor& actual, const Tensor& expected, const PoolCase& pool, const char* what) {
  EXPECT_EQ(actual.sizes(), expected.sizes()) << what;
  EXPECT_TRUE(torch::allclose(actual, expected, 0, 0, /*equal_nan=*/true))
      << what << " of " << torch::IntArrayRef(pool.shape) << ", kernel " << pool.kernel << ", " << actual.dtype();
}

void compare_with_pytorch(bool bitwise_gradients) {
  torch::manual_seed(3);
  for (const PoolCase& pool : kCases) {
    for (const auto dtype : {torch::kDouble, torch::kFloat, torch::kHalf, torch::kBFloat16}) {
      for (const auto format : {torch::MemoryFormat::Contiguous, torch::MemoryFormat::ChannelsLast}) {
        const Tensor x = picture(pool, dtype, format), reference = x.detach().clone().requires_grad_();
        const Tensor y = max_pool2d(x, pool.kernel, pool.stride, pool.padding);
        const Tensor expected = torch::max_pool2d(reference, pool.kernel, pool.stride, pool.padding);
        expect_same(y, expected, pool, "y");
        EXPECT_EQ(y.strides(), expected.strides());
        // Sums of small integers are exact whatever their order.
        const Tensor d_y = bitwise_gradients ? torch::randn_like(y) : torch::randint_like(y, -3, 4);
        if (d_y.numel() > 0) d_y[0][0][0][0] = std::numeric_limits<double>::infinity();  // may not reach other pixels
        y.backward(d_y);
        expected.backward(d_y);
        expect_same(x.grad(), reference.grad(), pool, "d_x");
      }
    }
  }
}

TEST(MaxPool, ValuesAndGradientsArePyTorchsBitForBit) { compare_with_pytorch(true); }

TEST(MaxPool, DeterministicAlgorithmsGiveTheSameGradients) {
  at::globalContext().setDeterministicAlgorithms(true, /*warn_only=*/true);  // PyTorch's own would throw on CUDA
  compare_with_pytorch(false);
  at::globalContext().setDeterministicAlgorithms(false, false);
}

TEST(MaxPool, GradientsAreTheSameInEveryRun) {
  for (const auto format : {torch::MemoryFormat::Contiguous, torch::MemoryFormat::ChannelsLast}) {
    const Tensor x = torch::randn({8, 64, 57, 57}, device()).contiguous(format).requires_grad_();
    const Tensor y = max_pool2d(x), d_y = torch::randn_like(y);
    const Tensor first = torch::autograd::grad({y}, {x}, {d_y}, /*retain_graph=*/true)[0];
    for (int run = 0; run < 5; ++run) {
      EXPECT_TRUE(torch::equal(torch::autograd::grad({y}, {x}, {d_y}, true)[0], first));
    }
  }
}

// Of a picture that nobody else holds, only the output and one byte per output stay.
TEST(MaxPool, KeepsOneBytePerOutput) {
  for (const auto format : {torch::MemoryFormat::Contiguous, torch::MemoryFormat::ChannelsLast}) {
    train::MemoryMeter meter(device());
    Tensor x = torch::randn({4, 32, 64, 64}, device()).requires_grad_();
    const int64_t before = meter.current();
    const Tensor y = max_pool2d((x * 2).contiguous(format));
    EXPECT_EQ(meter.current() - before, y.numel() * (4 + 1));
  }
}

TEST(MaxPool, CanBeDifferentiatedTwice) {
  const auto twice = [](auto&& pool) {
    torch::manual_seed(4);
    const Tensor x = torch::randn({2, 3, 9, 8}, torch::dtype(torch::kDouble).device(device())).requires_grad_();
    const Tensor y = pool(x.pow(2));
    const Tensor d_x = torch::autograd::grad({y.pow(3).sum()}, {x}, {}, true, /*create_graph=*/true)[0];
    return torch::autograd::grad({d_x.pow(2).sum()}, {x})[0];
  };
  const Tensor ours = twice([](const Tensor& x) { return max_pool2d(x); });
  EXPECT_TRUE(torch::allclose(ours, twice([](const Tensor& x) { return torch::max_pool2d(x, 3, 2, 1); }), 1e-12));
  const Tensor average = twice([](const Tensor& x) { return avg_pool2d(x); });
  EXPECT_TRUE(torch::allclose(average, twice([](const Tensor& x) { return torch::avg_pool2d(x, 2); }), 1e-12));
}

TEST(MaxPool, WhatItCannotPoolIsNamed) {
  EXPECT_THAT(test::message_of([] {
                max_pool2d(torch::ones({2, 3, 4}));
              }),
              testing::StartsWith("max_pool2d: x must have shape [N, C, H, W], got [2, 3, 4]"));
  EXPECT_THAT(test::message_of([] {
                max_pool2d(torch::ones({1, 1, 40, 40}), 17, 17, 0);
              }),
              testing::StartsWith("max_pool2d: kernel must be 1 to 16"));
  EXPECT_THAT(test::message_of([] {
                avg_pool2d(torch::ones({2, 3, 4}));
              }),
              testing::StartsWith("avg_pool2d: x must have shape [N, C, H, W], got [2, 3, 4]"));
}

TEST(AvgPool, IsPyTorchsAndKeepsNothing) {
  for (const auto format : {torch::MemoryFormat::Contiguous, torch::MemoryFormat::ChannelsLast}) {
    for (const auto dtype : {torch::kDouble, torch::kFloat, torch::kHalf, torch::kBFloat16}) {
      const PoolCase pool{{2, 3, 9, 8}, 2, 2, 0};
      const Tensor x = torch::randn(pool.shape, device()).to(dtype).contiguous(format).requires_grad_();
      const Tensor reference = x.detach().clone().requires_grad_();
      const Tensor y = avg_pool2d(x), expected = torch::avg_pool2d(reference, 2);
      expect_same(y, expected, pool, "y");
      const Tensor d_y = torch::randn_like(y);
      y.backward(d_y);
      expected.backward(d_y);
      expect_same(x.grad(), reference.grad(), pool, "d_x");
    }
    train::MemoryMeter meter(device());
    Tensor x = torch::randn({4, 32, 64, 64}, device()).requires_grad_();
    const int64_t before = meter.current();
    const Tensor y = avg_pool2d((x * 2).contiguous(format));
    EXPECT_EQ(meter.current() - before, y.numel() * 4);
  }
}

}  // namespace
}  // namespace iabn::nn
