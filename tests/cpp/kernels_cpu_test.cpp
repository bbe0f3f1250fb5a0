// Values of the CPU kernels against the oracle, determinism, the steps against the fused directions.

#include "tests/cpp/kernels_cpu_support.h"

namespace iabn::kernels::cpu::test {

namespace {

std::vector<size_t> instruction_sets() {
  std::vector<size_t> indices;
  for (size_t i = 0; i < supported_primitives().size(); ++i) indices.push_back(i);
  return indices;
}
INSTANTIATE_TEST_SUITE_P(Each, CpuKernels, ::testing::ValuesIn(instruction_sets()),
                         [](const auto& info) { return supported_primitives()[info.param].name; });

// One test for all instruction sets: they share the oracle, which takes most of the time.
TEST(CpuKernelsOnEveryInstructionSet, ForwardAndBackwardMatchTheOracleOnBoundaryShapes) {
  uint64_t seed = 0;
  for (const Shape& shape : boundary_shapes()) {
    for_each_type([&](auto t) {
      const Problem<decltype(t)> p(shape, kInvertible[seed % 3], seed);
      const Oracle o = oracle_of(p);
      for (const PrimitiveTable& table : supported_primitives()) {
        use_primitives(&table);
        expect_matches(p, o, Threads(1));
      }
      ++seed;
    });
    if (HasFailure()) break;  // one shape's worth of messages is enough
  }
  use_primitives(nullptr);
}

TEST_P(CpuKernels, EveryActivationMatchesOnBothLayouts) {
  for (const Layout layout : {Layout::kContiguous, Layout::kChannelsLast}) {
    for (const ActivationSpec& activation :
         {kIdentitySpec, kLeakySpec, kEluSpec, ActivationSpec{Activation::kLeakyReLU, 2.5},
          ActivationSpec{Activation::kELU, 1.3}}) {
      for_each_type([&](auto t) {
        expect_matches_oracle(Problem<decltype(t)>({4, 37, 30, layout}, activation, 5), serial);
      });
    }
  }
}

TEST_P(CpuKernels, LegacyGammaAndMissingAffineMatch) {
  for (const Layout layout : {Layout::kContiguous, Layout::kChannelsLast}) {
    for_each_type([&](auto t) {
      Problem<decltype(t)> p({3, 19, 40, layout}, kLeakySpec, 8);
      p.mode = GammaMode::kLegacy;
      expect_matches_oracle(p, serial);
      p.has_affine = false;
      p.mode = GammaMode::kSigned;
      expect_matches_oracle(p, serial);
    });
  }
}

TEST_P(CpuKernels, ALargeMeanDoesNotCancel) {
  for (const Layout layout : {Layout::kContiguous, Layout::kChannelsLast}) {
    for (const Shape& shape : {Shape{6, 5, 3000, layout}, Shape{40, 70, 49, layout}}) {
      expect_matches_oracle(Problem<float>(shape, kLeakySpec, 3, 1, 1e4), serial);
      expect_matches_oracle(Problem<double>(shape, kLeakySpec, 3, 1, 1e12), serial);
    }
  }
}

TEST_P(CpuKernels, AConstantChannelWithOneOutlierHasTheRightVariance) {
  for (const Layout layout : {Layout::kContiguous, Layout::kChannelsLast}) {
    for (const int64_t s : {49, 20000}) {
      const Shape shape{2, 3, s, layout};
      for (const double outlier : {1e6, 7.25}) {
        std::vector<float> x(size_t(shape.numel()), 7.0f), packed(9);
        for (int64_t c = 0; c < 3; ++c) x[size_t(index(shape, 0, c, 0))] = float(outlier);
        statistics<float>(x.data(), shape, packed.data(), serial);
        const double m = double(shape.count()), delta = outlier - 7;
        const double m2 = delta * delta * (m - 1) / m;
        for (int64_t c = 0; c < 3; ++c) {
          EXPECT_EQ(packed[size_t(c)], float(m));
          const double mean = 7 + delta / m;
          EXPECT_NEAR(packed[size_t(3 + c)], mean, 16 * 0x1p-24 * (mean + std::sqrt(m2 / m)));
          EXPECT_NEAR(packed[size_t(6 + c)], m2, 1e-5 * m2);
        }
      }
      std::vector<float> x(size_t(shape.numel()), 7.3f), packed(9);
      statistics<float>(x.data(), shape, packed.data(), serial);
      EXPECT_EQ(packed[3], 7.3f);
      EXPECT_EQ(packed[6], 0);
    }
  }
}

TEST_P(CpuKernels, ResultsHaveTheSameBitsForAnyNumberOfThreads) {
  for (const Layout layout : {Layout::kContiguous, Layout::kChannelsLast}) {
    // Units fused in one task, groups of units, pieces of segments, folded rows with a rest, one channel.
    for (const Shape& shape :
         {Shape{8, 64, 100, layout}, Shape{2, 4, 70001, layout}, Shape{7, 3, 5001, layout}, Shape{5, 1, 30000, layout},
          Shape{30, 130, 300, layout}, Shape{64, 300, 1, layout}, Shape{1, 18, 100000, layout}}) {
      for_each_type([&](auto t) {
        using T = decltype(t);
        const Problem<T> p(shape, kLeakySpec, 1);
        SCOPED_TRACE(describe<T>(shape, kLeakySpec));
        Oracle o;
        for (int64_t i = 0; i < shape.numel(); ++i) o.z.push_back(wide(p.x.data()[i]));
        const Result<T> one = run_fused(p, o, serial);
        for (const int threads : {2, 5}) {
          const Result<T> many = run_fused(p, o, Threads(threads));
          EXPECT_TRUE(one.z.same_bits(many.z));
          EXPECT_TRUE(one.d_x.same_bits(many.d_x));
          EXPECT_EQ(one.mean, many.mean);
          EXPECT_EQ(one.var, many.var);
          EXPECT_EQ(one.d_weight, many.d_weight);
          EXPECT_EQ(one.d_bias, many.d_bias);
        }
      });
    }
  }
}

TEST_P(CpuKernels, SeparateStepsGiveTheBitsOfTheFusedOnes) {
  for (const Layout layout : {Layout::kContiguous, Layout::kChannelsLast}) {
    for (const Shape& shape : {Shape{8, 64, 100, layout}, Shape{2, 4, 40001, layout}, Shape{7, 3, 501, layout}}) {
      for_each_type([&](auto t) {
        using T = decltype(t);
        using A = accumulate_t<T>;
        const size_t c = size_t(shape.c);
        const Problem<T> p(shape, kLeakySpec, 1);
        Oracle o = forward_oracle(p);
        const Result<T> fused = run_fused(p, o, serial);

        std::vector<A> packed(3 * c), var(c), sums(4 * c), d_weight(c), d_bias(c);
        statistics<T>(p.x.data(), shape, packed.data(), serial);
        for (size_t i = 0; i < c; ++i) var[i] = packed[2 * c + i] / packed[i];
        Buffer<T> z = p.x;
        apply<T>(z.data(), shape, packed.data() + c, var.data(), p.affine(), p.activation, serial);
        EXPECT_TRUE(z.same_bits(fused.z));

        const Buffer<T> saved = stored<T>(o.z, 1);
        Buffer<T> d_x = p.d_z;  // over d_z
        const A count = A(shape.count());
        backward_reduce<T>(saved.data(), p.d_z.data(), shape, p.affine(), p.activation, sums.data(), serial);
        backward_apply<T>(saved.data(), d_x.data(), d_x.data(), shape, sums.data(), &count, var.data(), p.affine(),
                          p.activation, serial);
        backward_parameters<A>(sums.data(), sums.data(), &count, shape.c, p.affine(), d_weight.data(), d_bias.data());
        EXPECT_TRUE(d_x.same_bits(fused.d_x));
        EXPECT_EQ(d_weight, fused.d_weight);
        EXPECT_EQ(d_bias, fused.d_bias);
      });
    }
  }
}

TEST_P(CpuKernels, UnwantedGradientsAreLeftAlone) {
  for (const Layout layout : {Layout::kContiguous, Layout::kChannelsLast}) {
    const Shape shape{4, 33, 70, layout};
    const Problem<float> p(shape, kLeakySpec, 2);
    Oracle o = forward_oracle(p);
    const Result<float> all = run_fused(p, o, serial);
    const Buffer<float> z = stored<float>(o.z, 1);
    std::vector<float> d_weight(33), d_bias(33);
    backward<float>(z.data(), p.d_z.data(), nullptr, shape, all.var.data(), p.affine(), p.activation, d_weight.data(),
                    d_bias.data(), serial);
    EXPECT_EQ(d_weight, all.d_weight);
    EXPECT_EQ(d_bias, all.d_bias);
    Buffer<float> d_x(shape.numel(), 0);
    backward<float>(z.data(), p.d_z.data(), d_x.data(), shape, all.var.data(), p.affine(), p.activation, nullptr,
                    nullptr, serial);
    EXPECT_TRUE(d_x.same_bits(all.d_x));
    std::vector<float> only(33);
    backward<float>(z.data(), p.d_z.data(), nullptr, shape, all.var.data(), p.affine(), p.activation, nullptr,
                    only.data(), serial);
    EXPECT_EQ(only, all.d_bias);
  }
}

TEST_P(CpuKernels, AGradientStoredPastTheCacheHasTheSameBits) {
  // Above 16 MiB d_x is stored without passing the cache where it is aligned; over d_z it never is.
  const auto check = [&](auto t, const Shape& shape) {
    using T = decltype(t);
    const size_t numel = size_t(shape.numel());
    ASSERT_GT(numel * sizeof(T), size_t(16) << 20);
    std::vector<T> z(numel), d_z(numel), room(numel + 128);
    for (size_t i = 0; i < numel; ++i) {
      z[i] = rounded<T>(double(i % 1009) / 500 - 1);
      d_z[i] = rounded<T>(double(i % 2003) / 1000 - 0.9);
    }
    const std::vector<accumulate_t<T>> var(size_t(shape.c), accumulate_t<T>(1));
    std::vector<T> in_place = d_z;
    backward<T>(z.data(), in_place.data(), in_place.data(), shape, var.data(), {}, kLeakySpec, nullptr, nullptr,
                serial);
    for (const size_t offset : {0, 1}) {
      T* aligned = reinterpret_cast<T*>((reinterpret_cast<uintptr_t>(room.data()) + 63) / 64 * 64) + offset;
      std::fill(room.begin(), room.end(), rounded<T>(77));
      backward<T>(z.data(), d_z.data(), aligned, shape, var.data(), {}, kLeakySpec, nullptr, nullptr, serial);
      ASSERT_EQ(std::memcmp(aligned, in_place.data(), numel * sizeof(T)), 0) << offset;
      ASSERT_EQ(wide(aligned[numel]), 77);
    }
  };
  check(float{}, {9, 64, 8000, Layout::kContiguous});
  check(float{}, {9, 8, 60007, Layout::kContiguous});  // segments that are not aligned
  check(float{}, {9, 64, 8000, Layout::kChannelsLast});
  check(float{}, {9, 65, 8000, Layout::kChannelsLast});
  check(BFloat16{}, {9, 128, 8000, Layout::kChannelsLast});
  check(Half{}, {9, 128, 8000, Layout::kContiguous});
}

TEST_P(CpuKernels, FrozenBackwardMatchesTheOracle) {
  for (const Layout layout : {Layout::kContiguous, Layout::kChannelsLast}) {
    for (const ActivationSpec& activation : {kLeakySpec, kIdentitySpec, kEluSpec, kReluSpec}) {
      for_each_type([&](auto t) {
        using T = decltype(t);
        using A = accumulate_t<T>;
        for (const Shape& shape : {Shape{3, 21, 61, layout}, Shape{2, 2, 40000, layout}}) {
          SCOPED_TRACE(describe<T>(shape, activation));
          Problem<T> p(shape, activation, 4);
          p.mode = activation.kind == Activation::kELU ? GammaMode::kLegacy : GammaMode::kSigned;
          const size_t c = size_t(shape.c);
          const std::vector<double> mean(c, 0.125), var(c, 1.5);
          const std::vector<A> mean_a(c, A(0.125)), var_a(c, A(1.5));
          Oracle o = forward_oracle(p, mean.data(), var.data());
          backward_oracle(p, o, /*frozen=*/true);
          Buffer<T> applied = p.x;
          apply<T>(applied.data(), shape, mean_a.data(), var_a.data(), p.affine(), activation, serial);
          EXPECT_TRUE(near("z", applied.data(), o.z, o.z_bound));

          const Buffer<T> z = stored<T>(o.z, 1);
          Buffer<T> d_x(shape.numel(), 1), alone(shape.numel(), 1);
          std::vector<A> d_weight(c), d_bias(c), d_weight_alone(c);
          backward_frozen<T>(z.data(), p.d_z.data(), d_x.data(), shape, var_a.data(), p.affine(), activation,
                             d_weight.data(), d_bias.data(), serial);
          EXPECT_TRUE(near("d_x", d_x.data(), o.d_x, o.d_x_bound));
          EXPECT_TRUE(near("d_weight", d_weight.data(), times(o.d_gamma, o.sign), o.d_gamma_bound));
          EXPECT_TRUE(near("d_bias", d_bias.data(), o.d_beta, o.d_beta_bound));
          backward_frozen<T>(z.data(), p.d_z.data(), alone.data(), shape, var_a.data(), p.affine(), activation,
                             static_cast<A*>(nullptr), static_cast<A*>(nullptr), serial);
          EXPECT_TRUE(alone.same_bits(d_x));
          backward_frozen<T>(z.data(), p.d_z.data(), static_cast<T*>(nullptr), shape, var_a.data(), p.affine(),
                             activation, d_weight_alone.data(), static_cast<A*>(nullptr), serial);
          EXPECT_EQ(d_weight_alone, d_weight);
        }
      });
    }
  }
}

}  // namespace

}  // namespace iabn::kernels::cpu::test
