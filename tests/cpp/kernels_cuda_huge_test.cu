// Tensors and channels beyond 2^31 elements, against a naive float64 reference kernel on the device. Needs 18 GB of
// device memory; inputs are recomputed from their index, so that in-place results need no second copy.

#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "kernels_cuda_support.h"

namespace iabn::test {
namespace {

using kernels::BFloat16;

constexpr double kSlope = 0.25;
constexpr ActivationSpec kAct{Activation::kLeakyReLU, kSlope};
constexpr int kBlocks = 1024;
constexpr int kThreads = 256;

/// A value in [-1, 1) that depends on all 64 bits of its index, rounded to bf16.
__device__ float noise(int64_t i, uint64_t seed) {
  uint64_t h = (static_cast<uint64_t>(i) + seed) * 0x9e3779b97f4a7c15ull;
  h ^= h >> 32;
  h *= 0xd6e8feb86659fd93ull;
  h ^= h >> 32;
  return static_cast<float>(BFloat16(static_cast<float>(h >> 40) * 0x1p-23f - 1.f));
}

__device__ int64_t channel_of(const Shape& shape, int64_t i) {
  return shape.layout == Layout::kChannelsLast ? i % shape.c : i / shape.s % shape.c;
}

/// x of element i: its mean grows with the position, so that a lost or repeated part of the tensor shows.
__device__ float x_of(const Shape& shape, int64_t i) {
  const float trend = static_cast<float>(static_cast<double>(i) / static_cast<double>(shape.n * shape.c * shape.s));
  return static_cast<float>(BFloat16(noise(i, 1) + trend + static_cast<float>(channel_of(shape, i))));
}

template <class F>
__device__ void for_all(const Shape& shape, F&& f) {
  const int64_t size = shape.n * shape.c * shape.s;
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < size; i += int64_t{kBlocks} * kThreads) f(i);
}

/// With a mean and a part along x: both sums of backward are of the order of m, far above their tolerance.
__device__ float gradient_of(const Shape& shape, int64_t i) {
  return static_cast<float>(BFloat16(noise(i, 77) + 0.5F + 0.25F * x_of(shape, i)));
}

__global__ void fill(Shape shape, BFloat16* x, BFloat16* d_z) {
  for_all(shape, [&](int64_t i) {
    x[i] = BFloat16(x_of(shape, i));
    d_z[i] = BFloat16(gradient_of(shape, i));
  });
}

/// Sums of up to 8 channels: partial sums in float64 per block, then one atomic each.
template <int kSums, class F>
__device__ void reduce(const Shape& shape, double* sums, F&& f) {
  double mine[4][kSums] = {};
  for_all(shape, [&](int64_t i) {
    const int64_t c = channel_of(shape, i);
    double terms[kSums];
    f(i, terms);
    for (int k = 0; k < 4; ++k) {
      for (int q = 0; q < kSums; ++q) mine[k][q] += k == c ? terms[q] : 0.0;
    }
  });
  for (int k = 0; k < 4 && k < shape.c; ++k) {
    for (int q = 0; q < kSums; ++q) atomicAdd(sums + q * shape.c + k, mine[k][q]);
  }
}

__global__ void reference_statistics(Shape shape, double* sums) {
  reduce<2>(shape, sums, [&](int64_t i, double(&terms)[2]) {
    const double x = x_of(shape, i);
    terms[0] = x;
    terms[1] = x * x;
  });
}

__global__ void reference_backward(Shape shape, const BFloat16* z, double* sums) {
  reduce<4>(shape, sums, [&](int64_t i, double(&terms)[4]) {
    const double v = static_cast<double>(static_cast<float>(z[i]));
    const double y = v < 0 ? v / kSlope : v;
    const double d_y = static_cast<double>(gradient_of(shape, i)) * (v < 0 ? kSlope : 1);
    terms[0] = d_y;
    terms[1] = d_y * y;
    terms[2] = y;
    terms[3] = y * y;
  });
}

/// Counts elements of z that are not the rounded leaky ReLU of a*x + b.
__global__ void count_wrong_z(Shape shape, const BFloat16* z, const double* a, const double* b,
                              unsigned long long* wrong) {
  for_all(shape, [&](int64_t i) {
    const int64_t c = channel_of(shape, i);
    const double y = a[c] * static_cast<double>(x_of(shape, i)) + b[c];
    const double want = y < 0 ? y * kSlope : y;
    if (!(fabs(static_cast<double>(static_cast<float>(z[i])) - want) <=
          0x1.02p-8 * fabs(want) + 2e-5 * a[c] * (1 + fabs(y)))) {
      atomicAdd(wrong, 1ull);
    }
  });
}

/// Counts elements of d_x that are not a*d_y + b*y + c, to one rounding and what the tolerance of the sums (1e-5 of m,
/// each) leaves uncertain in b and c.
__global__ void count_wrong_d_x(Shape shape, const BFloat16* z, const BFloat16* d_x, const double* a, const double* b,
                                const double* offset, unsigned long long* wrong) {
  for_all(shape, [&](int64_t i) {
    const int64_t c = channel_of(shape, i);
    const double v = static_cast<double>(static_cast<float>(z[i]));
    const double y = v < 0 ? v / kSlope : v;
    const double d_y = static_cast<double>(gradient_of(shape, i)) * (v < 0 ? kSlope : 1);
    const double want = a[c] * d_y + b[c] * y + offset[c];
    if (!(fabs(static_cast<double>(static_cast<float>(d_x[i])) - want) <=
          0x1.02p-8 * fabs(want) + 2e-5 * a[c] * (1 + fabs(y)))) {
      atomicAdd(wrong, 1ull);
    }
  });
}

class HugeTensor : public testing::TestWithParam<Shape> {};

TEST_P(HugeTensor, ForwardAndBackwardReachEveryElement) {
  const Shape shape = GetParam();
  const int64_t channels = shape.c;
  const double m = double(shape.count());
  DeviceArray<BFloat16> x(size_t(shape.numel())), d_z(size_t(shape.numel()));
  DeviceArray<float> numbers(4 * channels);
  DeviceArray<char> workspace(kernels::cuda::workspace_bytes<BFloat16>(shape));
  float* mean = numbers.get();
  float* var = mean + channels;
  float* d_weight = var + channels;
  float* d_bias = d_weight + channels;
  const kernels::Affine<float> affine;
  fill<<<kBlocks, kThreads>>>(shape, x.get(), d_z.get());
  cuda_check(cudaGetLastError());

  kernels::cuda::forward<BFloat16>(x.get(), shape, affine, kAct, {}, mean, var, workspace.get(), nullptr);
  DeviceArray<double> sums(std::vector<double>(4 * channels));
  reference_statistics<<<kBlocks, kThreads>>>(shape, sums.get());
  const auto s = sums.host();
  std::vector<double> a(channels), b(channels), offset(channels);
  for (int64_t c = 0; c < channels; ++c) {
    const double want_mean = s[c] / m;
    const double want_var = s[channels + c] / m - want_mean * want_mean;
    EXPECT_NEAR(numbers.host()[c], want_mean, 1e-5 * (1 + std::abs(want_mean)));
    EXPECT_NEAR(numbers.host()[channels + c], want_var, 1e-4 * want_var);
    a[c] = 1 / std::sqrt(want_var + 1e-5);
    b[c] = -want_mean * a[c];
  }
  DeviceArray<double> device_a(a), device_b(b);
  DeviceArray<unsigned long long> wrong(std::vector<unsigned long long>{0});
  count_wrong_z<<<kBlocks, kThreads>>>(shape, x.get(), device_a.get(), device_b.get(), wrong.get());
  ASSERT_EQ(wrong.host()[0], 0u) << "z";

  sums.set(std::vector<double>(4 * channels));
  reference_backward<<<kBlocks, kThreads>>>(shape, x.get(), sums.get());
  kernels::cuda::backward<BFloat16>(x.get(), d_z.get(), d_z.get(), shape, var, affine, kAct, d_weight, d_bias,
                                    workspace.get(), nullptr);
  const auto t = sums.host();
  for (int64_t c = 0; c < channels; ++c) {
    const double mu = t[2 * channels + c] / m;
    const double scale = 1 / std::max(1.0, std::sqrt(t[3 * channels + c] / m - mu * mu));
    const double d_gamma = scale * (t[channels + c] - mu * t[c]);
    EXPECT_NEAR(numbers.host()[2 * channels + c], d_gamma, 1e-5 * m);
    EXPECT_NEAR(numbers.host()[3 * channels + c], t[c], 1e-5 * m);
    b[c] = -a[c] * scale * d_gamma / m;
    offset[c] = -a[c] * t[c] / m - b[c] * mu;
  }
  device_b.set(b);
  DeviceArray<double> device_offset(offset);
  count_wrong_d_x<<<kBlocks, kThreads>>>(shape, x.get(), d_z.get(), device_a.get(), device_b.get(), device_offset.get(),
                                         wrong.get());
  ASSERT_EQ(wrong.host()[0], 0u) << "d_x";
}

constexpr int64_t kTwoTo31 = int64_t{1} << 31;
INSTANTIATE_TEST_SUITE_P(Beyond2To31, HugeTensor,
                         testing::Values(Shape{1, 1, kTwoTo31 + 1032, Layout::kContiguous},
                                         Shape{1, 2, kTwoTo31 + 8, Layout::kContiguous},
                                         Shape{3, 2, kTwoTo31 / 4 + 1, Layout::kContiguous},
                                         Shape{3, 3, kTwoTo31 / 8 + 5, Layout::kChannelsLast},
                                         Shape{2, 2, kTwoTo31 / 2 + 7, Layout::kChannelsLast}));

}  // namespace
}  // namespace iabn::test
