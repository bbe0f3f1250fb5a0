// Changes of colour, and the vectorised rows that apply them, against independent arithmetic.

#include <gtest/gtest.h>

#include <array>
#include <cmath>

#include "data_support.h"
#include "iabn/data/color.h"
#include "iabn/data/pixel_rows.h"
#include "iabn/data/transform.h"

namespace iabn::data::test {
namespace {

TEST(Color, ColoursOfATransformAreAppliedBeforeNormalising) {
  InputOptions options = plain_input(3);
  options.augmentation = Augmentation::none;
  options.crop_train = 8;
  options.color_jitter_train = true;
  options.lighting_train = true;
  const std::vector<float> unit = run(Transform(options, Split::train), gradient(8, 8, 3), 5);
  options.mean = {0.1, 0.2, 0.3};
  options.std = {0.5, 0.6, 0.7};
  const std::vector<float> got = run(Transform(options, Split::train), gradient(8, 8, 3), 5);
  const std::vector<float> planes = run(Transform(options, Split::train), gradient(8, 8, 3), 5, false);
  for (size_t i = 0; i < got.size(); ++i) {
    EXPECT_NEAR(got[i], (unit[i] - options.mean[i % 3]) / options.std[i % 3], 1e-5);
    EXPECT_NEAR(planes[i % 3 * 64 + i / 3], got[i], 1e-5);
  }
}

using Pixel = std::array<double, 3>;

double grey(const Pixel& p) { return 0.299 * p[0] + 0.587 * p[1] + 0.114 * p[2]; }

Pixel mean_of(const std::vector<Pixel>& pixels) {
  Pixel mean{};
  for (const Pixel& p : pixels) {
    for (size_t c = 0; c < 3; ++c) mean[c] += p[c] / static_cast<double>(pixels.size());
  }
  return mean;
}

Pixel changed(const ColorChange& change, const Pixel& in) {
  Pixel out = change.shift;
  for (size_t c = 0; c < 3; ++c) {
    for (size_t k = 0; k < 3; ++k) out[c] += change.matrix[c][k] * in[k];
  }
  return out;
}

// Saturation, brightness and contrast pixel by pixel, each on the result of the one before; draws as color_jitter does.
void jitter_one_by_one(std::vector<Pixel>& pixels, Random& random) {
  std::array<int, 3> order = {0, 1, 2};
  for (int64_t i = 2; i > 0; --i) std::swap(order[i], order[random.below(i + 1)]);
  for (const int kind : order) {
    const double amount = random.uniform(-0.4, 0.4);
    const double mean = grey(mean_of(pixels));
    for (Pixel& p : pixels) {
      const double reference = kind == 0 ? grey(p) : kind == 1 ? 0 : mean;
      for (double& value : p) value += amount * (reference - value);
    }
  }
}

TEST(Color, JitterIsItsThreeStepsOneAfterTheOther) {
  const std::vector<Pixel> before = {{0.9, 0.2, 0.4}, {0.1, 0.3, 0.2}, {0.5, 0.5, 0.8}, {0, 0, 0}};
  for (uint64_t seed = 0; seed < 200; ++seed) {
    Random random(seed, 0, 0), same = random;
    std::vector<Pixel> expected = before;
    jitter_one_by_one(expected, random);
    ColorChange change;
    color_jitter(change, mean_of(before), same);
    for (size_t i = 0; i < before.size(); ++i) {
      const Pixel got = changed(change, before[i]);
      for (size_t c = 0; c < 3; ++c) ASSERT_NEAR(got[c], expected[i][c], 1e-12) << seed;
    }
    EXPECT_EQ(random.bits(), same.bits());
  }
}

// All three operations keep grey an affine function of grey, and scale differences of channels.
TEST(Color, JitterScalesGreyAndSaturationWithinItsRange) {
  double least_saturation = 2;
  double most_saturation = 0;
  const std::vector<Pixel> before = {{0.9, 0.2, 0.4}, {0.1, 0.3, 0.2}, {0.5, 0.5, 0.8}};
  for (uint64_t seed = 0; seed < 2000; ++seed) {
    Random random(seed, 0, 0);
    ColorChange change;
    color_jitter(change, mean_of(before), random);
    std::vector<Pixel> after;
    for (const Pixel& p : before) after.push_back(changed(change, p));
    const double slope = (grey(after[0]) - grey(after[1])) / (grey(before[0]) - grey(before[1]));
    const double other = (grey(after[0]) - grey(after[2])) / (grey(before[0]) - grey(before[2]));
    EXPECT_NEAR(slope, other, 1e-9);
    EXPECT_GE(slope, 0.36 - 1e-9);
    EXPECT_LE(slope, 1.96 + 1e-9);
    const double saturation = (after[0][0] - after[0][1]) / (before[0][0] - before[0][1]) / slope;
    EXPECT_GE(saturation, 0.6 - 1e-9);
    EXPECT_LE(saturation, 1.4 + 1e-9);
    least_saturation = std::min(least_saturation, saturation);
    most_saturation = std::max(most_saturation, saturation);
  }
  EXPECT_NEAR(least_saturation, 0.6, 0.01);
  EXPECT_NEAR(most_saturation, 1.4, 0.01);
}

TEST(Color, JitterOfOneGreyChannelKeepsAConstantImageConstant) {
  InputOptions options = plain_input(1);
  options.augmentation = Augmentation::none;
  options.crop_train = 4;
  options.color_jitter_train = true;
  for (uint64_t seed = 0; seed < 20; ++seed) {
    const std::vector<float> values = run(Transform(options, Split::train), constant(4, 4, 1, 128), seed);
    for (const float value : values) {
      EXPECT_EQ(value, values[0]);
      EXPECT_GE(value, 0.6f * 128 / 255 - 1e-6f);
      EXPECT_LE(value, 1.4f * 128 / 255 + 1e-6f);
    }
  }
}

TEST(Color, LightingShiftsAlongThePrincipalColoursOfImageNet) {
  const double eigenvalues[3] = {0.2175, 0.0188, 0.0045};
  const double vectors[3][3] = {{-0.5675, -0.5808, -0.5836}, {0.7192, -0.0045, -0.6948}, {0.4009, -0.8140, 0.4203}};
  constexpr int kDraws = 4000;
  double squares[3] = {};
  for (uint64_t seed = 0; seed < kDraws; ++seed) {
    Random random(seed, 0, 0);
    ColorChange change;
    lighting(change, random);
    EXPECT_EQ(change.matrix, ColorChange{}.matrix);
    for (int k = 0; k < 3; ++k) {
      double along = 0;
      for (int c = 0; c < 3; ++c) along += change.shift[c] * vectors[k][c];
      squares[k] += along * along;
    }
  }
  // The variance of a sample of 4000 is within 2.2 % of the true one, one deviation.
  for (int k = 0; k < 3; ++k) EXPECT_NEAR(std::sqrt(squares[k] / kDraws) / (0.1 * eigenvalues[k]), 1.0, 0.06);
}

// The whole chain, with padding around the image, against double arithmetic from its bytes.
TEST(Color, ATransformWithColoursIsWithinRoundingOfItsStepsInBothLayouts) {
  InputOptions options;
  options.augmentation = Augmentation::pad_crop;
  options.padding = 9;
  options.crop_train = 21;
  options.color_jitter_train = true;
  options.lighting_train = true;
  InputOptions bytes_only = plain_input(3);
  bytes_only.augmentation = options.augmentation;
  bytes_only.padding = options.padding;
  bytes_only.crop_train = options.crop_train;
  const Transform transform(options, Split::train);
  const Image image = gradient(19, 17, 3);
  for (uint64_t seed = 0; seed < 40; ++seed) {
    const std::vector<int> bytes = run_bytes(Transform(bytes_only, Split::train), image, seed);
    std::vector<Pixel> pixels;
    for (size_t i = 0; i < bytes.size(); i += 3) {
      pixels.push_back({bytes[i] / 255.0, bytes[i + 1] / 255.0, bytes[i + 2] / 255.0});
    }
    Random random = transform.plan(image.height, image.width, Random(seed, 0, 0)).random;
    jitter_one_by_one(pixels, random);
    ColorChange light;
    lighting(light, random);
    const std::vector<float> last = run(transform, image, seed, true);
    const std::vector<float> first = run(transform, image, seed, false);
    for (size_t i = 0; i < pixels.size(); ++i) {
      const Pixel expected = changed(light, pixels[i]);
      for (size_t c = 0; c < 3; ++c) {
        ASSERT_NEAR(last[3 * i + c], (expected[c] - options.mean[c]) / options.std[c], 5e-6) << seed << " " << i;
        ASSERT_EQ(first[c * pixels.size() + i], last[3 * i + c]);
      }
    }
  }
}

TEST(PixelRows, EveryInstructionSetGivesTheSameColoursAndSumsForEveryLength) {
  Random random(1, 0, 0);
  ByteColors colors;
  for (auto& row : colors.matrix) {
    for (float& factor : row) factor = static_cast<float>(random.uniform(-0.02, 0.02));
  }
  for (float& shift : colors.shift) shift = static_cast<float>(random.uniform(-2, 2));
  const ByteScale scale{{0.485f, 0.456f, 0.406f}, {0.229f, 0.224f, 0.225f}};
  for (int64_t count = 1; count < 150; ++count) {
    std::vector<uint8_t> rgb(static_cast<size_t>(3 * count));
    for (uint8_t& byte : rgb) byte = static_cast<uint8_t>(random.below(256));
    std::array<int64_t, 3> expected_sums = {5, 6, 7};
    for (size_t i = 0; i < rgb.size(); ++i) expected_sums[i % 3] += rgb[i];
    for (const PixelRows& rows : supported_pixel_rows()) {
      std::array<int64_t, 3> sums = {5, 6, 7};
      rows.add_to(sums, rgb.data(), count);
      EXPECT_EQ(sums, expected_sums) << rows.name << " " << count;
      for (const bool mirrored : {false, true}) {
        for (const bool planes : {false, true}) {
          std::vector<float> out(rgb.size(), NAN);
          rows.write_colors(rgb.data(), count, mirrored, colors, planes ? count : 0, out.data());
          for (int64_t i = 0; i < 3 * count; ++i) {
            const int64_t x = i / 3, c = i % 3, from = mirrored ? count - 1 - x : x;
            double expected = colors.shift[c];
            for (int64_t k = 0; k < 3; ++k) expected += double{colors.matrix[c][k]} * rgb[3 * from + k];
            ASSERT_NEAR(out[planes ? c * count + x : i], expected, 2e-6) << rows.name << " " << count << " " << i;
          }
          rows.write_normalised(rgb.data(), count, mirrored, scale, planes ? count : 0, out.data());
          for (int64_t i = 0; i < 3 * count; ++i) {
            const int64_t x = i / 3, c = i % 3, from = mirrored ? count - 1 - x : x;
            const float unit = static_cast<float>(rgb[3 * from + c]) / 255.0f;
            ASSERT_EQ(out[planes ? c * count + x : i], (unit - scale.mean[c]) / scale.std[c]) << rows.name;
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace iabn::data::test
