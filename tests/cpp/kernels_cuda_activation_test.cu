// The activations as the CUDA kernels compile them, at every 16-bit number and at many of float32, against the
// definitions of iabn/activation.h in float64.

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>
#include <vector>

#include "iabn/kernels/cuda/activations.cuh"
#include "kernels_cuda_support.h"

namespace iabn::test {
namespace {

using kernels::BFloat16;
using kernels::Half;

template <class Act>
__global__ void evaluate(Act act, const float* in, float* forward, float* inverse, float* derivative, int count) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i >= count) return;
  forward[i] = act.forward(in[i]);
  inverse[i] = act.inverse(in[i]);
  derivative[i] = act.derivative(in[i]);
}

struct Values {
  std::vector<float> in, forward, inverse, derivative;
};

/// Every number of a 16-bit type; of float32 every 2^14th.
template <class T>
std::vector<float> numbers() {
  std::vector<float> all;
  for (uint32_t bits = 0; bits < 1u << 16; ++bits) {
    if constexpr (sizeof(T) == 2) {
      const auto narrow = static_cast<uint16_t>(bits);
      T number;
      std::memcpy(&number, &narrow, sizeof(number));
      all.push_back(static_cast<float>(number));
    } else {
      for (const uint32_t low : {0u, 0x4321u, 0x8000u, 0xfedcu}) {
        const uint32_t wide = bits << 16 | low;
        float number;
        std::memcpy(&number, &wide, sizeof(number));
        all.push_back(number);
      }
    }
  }
  return all;
}

template <class T>
Values evaluated(const ActivationSpec& activation) {
  Values v{numbers<T>(), {}, {}, {}};
  const int count = static_cast<int>(v.in.size());
  DeviceArray<float> in(v.in), forward(v.in), inverse(v.in), derivative(v.in);
  kernels::cuda::with_compiled_activation<T>(activation, [&](const auto& act) {
    evaluate<<<(count + 255) / 256, 256>>>(act, in.get(), forward.get(), inverse.get(), derivative.get(), count);
  });
  cuda_check(cudaGetLastError());
  cuda_check(cudaDeviceSynchronize());
  v.forward = forward.host();
  v.inverse = inverse.host();
  v.derivative = derivative.host();
  return v;
}

::testing::AssertionResult near(double got, double want, double tolerance) {
  if (std::isnan(want) ? std::isnan(got) : got == want || std::abs(got - want) <= tolerance) {
    return ::testing::AssertionSuccess();
  }
  return ::testing::AssertionFailure() << "got " << got << ", want " << want << " to " << tolerance;
}

/// Relative error of the functions for tensors of T (activations.cuh); float32 has the library's.
template <class T>
constexpr double kFunctionError = sizeof(T) == 2 ? 0x1p-17 : 0x1p-21;

template <class T>
class CudaActivations : public testing::Test {};
using StorageTypes = testing::Types<float, Half, BFloat16>;
TYPED_TEST_SUITE(CudaActivations, StorageTypes);

TYPED_TEST(CudaActivations, EluIsItsDefinition) {
  for (const double alpha : {1e-6, 1e-3, 0.7, 1.0, 50.0, 1e6}) {
    const ELU<double> elu(alpha, kernels::storage_epsilon<TypeParam>());
    const Values v = evaluated<TypeParam>({Activation::kELU, alpha});
    for (size_t i = 0; i < v.in.size(); ++i) {
      const double x = v.in[i], error = kFunctionError<TypeParam>;
      const double forward = elu.forward(x), inverse = elu.inverse(x), derivative = elu.derivative(x);
      ASSERT_TRUE(near(v.forward[i], forward, error * std::abs(forward) + 1e-44))
          << "forward at " << v.in[i] << ", alpha " << alpha;
      // What rounding z/alpha to float32 does to the logarithm.
      const double rest = 1 + x / alpha, rounding = x < 0 && rest > 0 ? 0x1p-22 / rest : 0;
      ASSERT_TRUE(near(v.inverse[i], inverse, error * std::abs(inverse) + rounding + 1e-44))
          << "inverse at " << v.in[i] << ", alpha " << alpha;
      ASSERT_TRUE(near(v.derivative[i], derivative, 0x1p-22 * (std::abs(x) + alpha))) << "derivative at " << v.in[i];
    }
  }
}

TYPED_TEST(CudaActivations, ReluIsItsDefinition) {
  for (const ActivationSpec& spec : {ActivationSpec{Activation::kReLU, 0}, ActivationSpec{Activation::kLeakyReLU, 0}}) {
    const ReLU<double> relu;
    const Values v = evaluated<TypeParam>(spec);
    for (size_t i = 0; i < v.in.size(); ++i) {
      ASSERT_TRUE(near(v.forward[i], relu.forward(v.in[i]), 0)) << "forward at " << v.in[i];
      ASSERT_TRUE(near(v.derivative[i], relu.derivative(v.in[i]), 0)) << "derivative at " << v.in[i];
      if (v.in[i] >= 0) {
        ASSERT_TRUE(near(v.inverse[i], v.in[i], 0)) << "inverse at " << v.in[i];
      }
    }
  }
}

}  // namespace
}  // namespace iabn::test
