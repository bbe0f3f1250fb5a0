// The CPU kernels where it is tight: gamma 0, NaN, rounding, saturated ELU, signs, running statistics, empty tensors.

#include "tests/cpp/kernels_cpu_support.h"

namespace iabn::kernels::cpu::test {

namespace {

TEST_P(CpuKernels, GammaZeroIsFiniteAndPassesNoGradient) {
  for (const Layout layout : {Layout::kContiguous, Layout::kChannelsLast}) {
    for_each_type([&](auto t) {
      using T = decltype(t);
      using A = accumulate_t<T>;
      for (const double beta : {0.0, 1.0}) {
        const Shape shape{4, 18, 33, layout};
        Problem<T> p(shape, kLeakySpec, 6);
        p.weight.assign(18, A(0));
        p.bias.assign(18, A(beta));
        Oracle o = forward_oracle(p);
        const Result<T> r = run_fused(p, o, serial);
        EXPECT_TRUE(near("z", r.z.data(), o.z, o.z_bound));
        for (int64_t i = 0; i < shape.numel(); ++i) ASSERT_EQ(wide(r.d_x.data()[i]), 0);
        for (size_t c = 0; c < 18; ++c) {
          EXPECT_EQ(r.d_weight[c], A(0));  // z says nothing about x_hat here
          EXPECT_TRUE(std::isfinite(double(r.d_bias[c])));
        }
        std::vector<A> d_weight(18, A(1));
        backward_frozen<T>(r.z.data(), p.d_z.data(), static_cast<T*>(nullptr), shape, r.var.data(), p.affine(),
                           p.activation, d_weight.data(), static_cast<A*>(nullptr), serial);
        EXPECT_EQ(d_weight, std::vector<A>(18, A(0)));
      }
    });
  }
}

TEST_P(CpuKernels, NegatedGammaAndBetaMirrorTheResultOfIdentity) {
  const Shape shape{3, 9, 100, Layout::kContiguous};
  Problem<float> p(shape, kIdentitySpec, 9);
  Oracle o = forward_oracle(p);
  const Result<float> r = run_fused(p, o, serial);
  for (auto& w : p.weight) w = -w;
  for (auto& b : p.bias) b = -b;
  for (auto& z : o.z) z = -z;
  const Result<float> mirrored = run_fused(p, o, serial);
  for (int64_t i = 0; i < shape.numel(); ++i) {
    ASSERT_EQ(mirrored.z.data()[i], -r.z.data()[i]);
    ASSERT_EQ(mirrored.d_x.data()[i], -r.d_x.data()[i]);
  }
  EXPECT_EQ(mirrored.d_weight, r.d_weight);
}

TEST_P(CpuKernels, NaNAndInfinityReachTheOutputAndTheGradients) {
  constexpr double kNaN = std::numeric_limits<double>::quiet_NaN(), kInf = std::numeric_limits<double>::infinity();
  for (const Layout layout : {Layout::kContiguous, Layout::kChannelsLast}) {
    for (const ActivationSpec& activation : kInvertible) {
      for_each_type([&](auto t) {
        using T = decltype(t);
        using A = accumulate_t<T>;
        for (const double bad : {kNaN, kInf, -kInf}) {
          for (const int64_t s : {3, 150}) {  // in a tail and in a whole block
            SCOPED_TRACE(describe<T>({2, 20, s, layout}, activation) + " " + std::to_string(bad));
            const Shape shape{2, 20, s, layout};
            Problem<T> p(shape, activation, 12);
            p.x.data()[index(shape, 1, 5, s - 1)] = rounded<T>(bad);
            Oracle o;
            o.z.assign(size_t(shape.numel()), 0.5);
            const Result<T> r = run_fused(p, o, serial);
            for (int64_t c = 0; c < 20; ++c) {
              each_in_channel(shape, c, [&](size_t i) { ASSERT_EQ(std::isnan(wide(r.z.data()[i])), c == 5); });
            }
            // Elementwise with given statistics: the bad element alone, an infinity as the formula has it.
            std::vector<A> mean(20, A(0)), var(20, A(1));
            Buffer<T> z = p.x;
            apply<T>(z.data(), shape, mean.data(), var.data(), p.affine(), activation, serial);
            const double got = wide(z.data()[index(shape, 1, 5, s - 1)]);
            const double want = act_forward(activation, bad * double(p.weight[5]));
            if (std::isnan(bad)) {
              EXPECT_TRUE(std::isnan(got));
            } else if (std::isinf(want)) {
              EXPECT_EQ(got, want);
            } else {
              EXPECT_NEAR(got, want, 4 * unit_roundoff<T>());
            }
            EXPECT_FALSE(std::isnan(wide(z.data()[index(shape, 1, 5, 0)])));

            // Backward: in z, and in d_z.
            for (const bool in_z : {true, false}) {
              Buffer<T> saved = stored<T>(o.z, 0), d_z = p.d_z, d_x(shape.numel(), 0);
              (in_z ? saved : d_z).data()[index(shape, 1, 5, s - 1)] = rounded<T>(bad);
              std::vector<A> d_weight(20), d_bias(20);
              backward<T>(saved.data(), d_z.data(), d_x.data(), shape, var.data(), p.affine(), activation,
                          d_weight.data(), d_bias.data(), serial);
              // ELU has no output below -alpha: an infinity there counts as saturated.
              if (!(in_z && bad == -kInf && activation.kind == Activation::kELU)) {
                EXPECT_FALSE(std::isfinite(wide(d_x.data()[index(shape, 1, 5, s - 1)]))) << in_z;
                EXPECT_FALSE(std::isfinite(double(d_weight[5]))) << in_z;
              }
              EXPECT_TRUE(std::isfinite(double(d_weight[4])));
              EXPECT_TRUE(std::isfinite(wide(d_x.data()[index(shape, 0, 6, 0)])));
            }
          }
        }
      });
    }
  }
}

TEST_P(CpuKernels, ANaNWithAnyPayloadInAParameterReachesTheOutput) {
  for_each_type([&](auto t) {
    using T = decltype(t);
    using A = accumulate_t<T>;
    using Word = std::conditional_t<sizeof(A) == 4, uint32_t, uint64_t>;
    const Shape shape{2, 2, 20, Layout::kContiguous};
    for (const Word word : {~Word(0) >> 1, ~Word(0), (std::bit_cast<Word>(std::numeric_limits<A>::infinity())) + 1}) {
      const A nan = std::bit_cast<A>(word);
      const std::vector<A> good(2, A(1)), bad{A(1), nan};
      for (const int which : {0, 1, 2}) {
        Problem<T> p(shape, kLeakySpec, 4);
        apply<T>(p.x.data(), shape, (which == 0 ? bad : good).data(), good.data(),
                 {(which == 1 ? bad : good).data(), (which == 2 ? bad : good).data(), GammaMode::kSigned, A(0)},
                 kLeakySpec, serial);
        for (int64_t c = 0; c < 2; ++c) {
          each_in_channel(shape, c, [&](size_t i) { ASSERT_EQ(std::isnan(wide(p.x.data()[i])), c == 1) << which; });
        }
      }
    }
  });
}

TEST_P(CpuKernels, RoundingToSixteenBitsIsToNearestEven) {
  const auto check = [&](auto t) {
    using T = decltype(t);
    const Shape shape{1, 1, 65536, Layout::kContiguous};
    for (const float factor : {1.0f, 1.5f, 0.75f, 3e-5f, 1.00390625f, 4097.0f}) {
      std::vector<T> x(65536);
      for (uint32_t i = 0; i < 65536; ++i) x[i] = T(uint16_t(i), T::from_bits());
      const std::vector<T> before = x;
      const float mean = 0, var = 1, bias = -0.0f;
      apply<T>(x.data(), shape, &mean, &var, {&factor, &bias, GammaMode::kSigned, 0.0f}, kIdentitySpec, serial);
      for (uint32_t i = 0; i < 65536; ++i) {
        const T want = T(float(before[i]) * factor);
        if (std::isnan(float(want))) {
          ASSERT_TRUE(std::isnan(float(x[i]))) << i;
        } else {
          ASSERT_EQ(x[i].x, want.x) << "factor " << factor << " bits " << i;
        }
      }
    }
  };
  check(Half{});
  check(BFloat16{});
}

TEST_P(CpuKernels, EluIsAccurateAndItsInverseIsClampedWhereItSaturates) {
  const auto check = [&](auto t, double relative) {
    using T = decltype(t);
    using A = accumulate_t<T>;
    const A mean = 0, var = 1, one = 1, zero = 0;
    const Affine<A> affine{&one, &zero, GammaMode::kSigned, A(0)};
    for (const double alpha : {1.0, 0.3}) {
      const ActivationSpec elu{Activation::kELU, alpha};
      std::vector<T> y;
      for (double v = -120; v < -1e-30; v *= 0.97) y.push_back(rounded<T>(v));
      for (double v = 1e-30; v < 100; v *= 1.5) y.push_back(rounded<T>(v));
      std::vector<T> z = y;
      const Shape shape{1, 1, int64_t(y.size()), Layout::kContiguous};
      apply<T>(z.data(), shape, &mean, &var, affine, elu, serial);
      for (size_t i = 0; i < y.size(); ++i) {
        const double want = act_forward(elu, wide(y[i]));
        ASSERT_NEAR(wide(z[i]), want, relative * std::abs(want) + smallest_step<T>()) << wide(y[i]);
      }
      // d_y = d_z * (z + alpha) for frozen statistics, and sum d_y*y with y from the inverse: one element at a time.
      for (size_t i = 0; i < y.size(); i += 7) {
        const T d_z = rounded<T>(1);
        T d_x;
        A d_weight, d_bias;
        backward_frozen<T>(&z[i], &d_z, &d_x, {1, 1, 1, Layout::kContiguous}, &var, affine, elu, &d_weight, &d_bias,
                           serial);
        const double v = wide(y[i]);
        const double slope = v > 0 ? 1 : alpha * std::exp(v);
        const double z_error = relative * std::abs(wide(z[i])) + 2 * unit_roundoff<A>() * alpha;
        ASSERT_NEAR(wide(d_x), slope, 2 * z_error + unit_roundoff<T>() * slope) << v;
        ASSERT_GE(wide(d_x), 0) << v;
        ASSERT_TRUE(std::isfinite(double(d_weight))) << v;
        ASSERT_NEAR(double(d_weight), slope * v, 2 * z_error * std::max(1.0, std::abs(v)) * 2 + 1e-30) << v;
      }
    }
  };
  check(double{}, 8 * 0x1p-53);
  check(float{}, 8 * 0x1p-24);
  check(Half{}, 1.01 * 0x1p-11);
  check(BFloat16{}, 1.01 * 0x1p-8);
}

TEST_P(CpuKernels, ASaturatedEluEntersTheSumsAtTheEndOfItsRoundingInterval) {
  for_each_type([&](auto t) {
    using T = decltype(t);
    using A = accumulate_t<T>;
    for (const double alpha : {1.0, 0.3, 0.7}) {
      const Shape shape{1, 1, 3, Layout::kContiguous};
      const T saturated = rounded<T>(-double(A(alpha)));  // may lie beyond -alpha by half a unit
      const std::vector<T> z(3, saturated), d_z(3, rounded<T>(1));
      std::vector<A> sums(4);
      backward_reduce<T>(z.data(), d_z.data(), shape, {}, {Activation::kELU, alpha}, sums.data(), serial);
      const double floor = std::log(2 * unit_roundoff<T>() / 4);
      // Where -alpha is rounded towards zero its inverse is finite, and above the floor.
      EXPECT_GE(sums[2], 3 * floor * (1 + 4 * unit_roundoff<A>()));
      EXPECT_LE(sums[2], 3 * std::log(2 * unit_roundoff<T>()) / 2);
      EXPECT_NEAR(sums[0], 0, 3 * unit_roundoff<T>());
    }
  });
}

TEST_P(CpuKernels, LeakyReluDecidesByTheSignBit) {
  // z = -0.0 is an underflowed negative: its gradient takes the slope.
  for (const Layout layout : {Layout::kContiguous, Layout::kChannelsLast}) {
    const Shape shape{1, 2, 40, layout};
    std::vector<float> z(80, -0.0f), d_z(80, 1.0f), d_x(80);
    const std::vector<float> var(2, 1.0f);
    const Affine<float> affine{nullptr, nullptr, GammaMode::kSigned, 0.0f};
    backward_frozen<float>(z.data(), d_z.data(), d_x.data(), shape, var.data(), affine, kLeakySpec, nullptr, nullptr,
                           serial);
    for (const float d : d_x) ASSERT_EQ(d, 0.01f);
    z.assign(80, 0.0f);
    backward_frozen<float>(z.data(), d_z.data(), d_x.data(), shape, var.data(), affine, kLeakySpec, nullptr, nullptr,
                           serial);
    for (const float d : d_x) ASSERT_EQ(d, 1.0f);
  }
}

TEST_P(CpuKernels, RunningStatisticsFollowMomentumAndCumulativeAverage) {
  for_each_type([&](auto t) {
    using T = decltype(t);
    using A = accumulate_t<T>;
    const Shape shape{4, 6, 25, Layout::kContiguous};
    const Problem<T> p(shape, kLeakySpec, 21, 2, 3);
    const Oracle o = forward_oracle(p);
    std::vector<A> mean(6), var(6);
    for (const double momentum : {0.1, -1.0}) {
      std::vector<A> running_mean(6, A(0.5)), running_var(6, A(2));
      int64_t batches = 3;
      Buffer<T> x = p.x;
      forward<T>(x.data(), shape, p.affine(), p.activation,
                 {running_mean.data(), running_var.data(), &batches, momentum}, mean.data(), var.data(), serial);
      EXPECT_EQ(batches, 4);
      const double factor = momentum < 0 ? 0.25 : momentum, m = double(shape.count());
      const double tolerance = 64 * unit_roundoff<A>();
      for (size_t c = 0; c < 6; ++c) {
        EXPECT_NEAR(running_mean[c], (1 - factor) * 0.5 + factor * o.mean[c], 4 * tolerance);
        EXPECT_NEAR(running_var[c], (1 - factor) * 2 + factor * o.var[c] * m / (m - 1), 8 * tolerance);
      }
    }
  });
}

TEST_P(CpuKernels, ParameterGradientsUseLocalSumsAndGlobalStatistics) {
  // Two processes with uneven shares: the sums of their parameter gradients are those of the whole batch.
  const int64_t c = 11;
  const Shape whole{7, c, 50, Layout::kContiguous};
  const Problem<float> p(whole, kLeakySpec, 31);
  Oracle o = forward_oracle(p);
  const Result<float> want = run_fused(p, o, serial);
  const Buffer<float> z = stored<float>(o.z, 1);
  const int64_t split = 2 * c * 50;
  const Shape parts[2] = {{2, c, 50, Layout::kContiguous}, {5, c, 50, Layout::kContiguous}};
  std::vector<float> local[2], sums(4 * c), d_weight(c), d_bias(c), total_weight(c), total_bias(c);
  const float count = 350;
  for (int i = 0; i < 2; ++i) {
    local[i].resize(4 * c);
    backward_reduce<float>(z.data() + i * split, p.d_z.data() + i * split, parts[i], p.affine(), p.activation,
                           local[i].data(), serial);
    for (size_t k = 0; k < sums.size(); ++k) sums[k] += local[i][k];
  }
  Buffer<float> d_x(whole.numel(), 0);
  for (int i = 0; i < 2; ++i) {
    backward_parameters<float>(local[i].data(), sums.data(), &count, c, p.affine(), d_weight.data(), d_bias.data());
    backward_apply<float>(z.data() + i * split, p.d_z.data() + i * split, d_x.data() + i * split, parts[i], sums.data(),
                          &count, want.var.data(), p.affine(), p.activation, serial);
    for (size_t k = 0; k < size_t(c); ++k) {
      total_weight[k] += d_weight[k];
      total_bias[k] += d_bias[k];
    }
  }
  backward_oracle(p, o);
  EXPECT_TRUE(near("d_weight", total_weight.data(), o.d_gamma, o.d_gamma_bound));
  EXPECT_TRUE(near("d_bias", total_bias.data(), o.d_beta, o.d_beta_bound));
  EXPECT_TRUE(near("d_x", d_x.data(), o.d_x, o.d_x_bound));

  const float nothing = 0;
  backward_parameters<float>(local[0].data(), sums.data(), &nothing, c, p.affine(), d_weight.data(), nullptr);
  EXPECT_EQ(d_weight, std::vector<float>(c, 0.0f));
}

TEST_P(CpuKernels, EmptyTensorsGiveZeros) {
  for (const Layout layout : {Layout::kContiguous, Layout::kChannelsLast}) {
    for (const Shape& shape : {Shape{0, 4, 9, layout}, Shape{3, 4, 0, layout}}) {
      std::vector<float> packed(12, 5), sums(16, 5), mean(4, 5), var(4, 5), d_weight(4, 5), d_bias(4, 5);
      std::vector<float> running(4, 2);
      int64_t batches = 1;
      const std::vector<float> zeros(4, 0.0f);
      const Affine<float> affine;
      float none = 0;
      statistics<float>(&none, shape, packed.data(), serial);
      EXPECT_EQ(packed, std::vector<float>(12, 0.0f));
      forward<float>(&none, shape, affine, kLeakySpec, {running.data(), nullptr, &batches, 0.1}, mean.data(),
                     var.data(), serial);
      EXPECT_EQ(mean, zeros);
      EXPECT_EQ(running, std::vector<float>(4, 2.0f));
      apply<float>(&none, shape, mean.data(), var.data(), affine, kLeakySpec, serial);
      backward_reduce<float>(&none, &none, shape, affine, kLeakySpec, sums.data(), serial);
      EXPECT_EQ(sums, std::vector<float>(16, 0.0f));
      backward_apply<float>(&none, &none, &none, shape, sums.data(), &none, var.data(), affine, kLeakySpec, serial);
      backward<float>(&none, &none, &none, shape, var.data(), affine, kLeakySpec, d_weight.data(), d_bias.data(),
                      serial);
      EXPECT_EQ(d_weight, zeros);
      EXPECT_EQ(d_bias, zeros);
      backward_frozen<float>(&none, &none, &none, shape, var.data(), affine, kLeakySpec, d_weight.data(), d_bias.data(),
                             serial);
      EXPECT_EQ(d_weight, zeros);
    }
    forward<float>(nullptr, {3, 0, 5, layout}, {}, kLeakySpec, {}, nullptr, nullptr, serial);
  }
}

TEST(CpuInstructionSets, TheFastestSupportedOneIsActive) {
  ASSERT_FALSE(supported_primitives().empty());
  EXPECT_EQ(&active_primitives(), &supported_primitives().back());
#if defined(__x86_64__) && !defined(__SSE4_1__)  // compiled for every x86-64, so that all four were built
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq")) {
    EXPECT_STREQ(active_primitives().name, "avx512");
    EXPECT_EQ(supported_primitives().size(), 4u);
  }
#endif
}

}  // namespace

}  // namespace iabn::kernels::cpu::test
