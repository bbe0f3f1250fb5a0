// Crops, resizing and normalisation against independent arithmetic.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "data_support.h"
#include "iabn/data/error.h"
#include "iabn/data/geometry.h"
#include "iabn/data/resize.h"
#include "iabn/data/transform.h"

namespace iabn::data::test {
namespace {

// Every pixel of up to 15 x 16 has its own value, from 1: black means outside.
Image numbered(int64_t height, int64_t width) {
  Image image = make_image(height, width, 1);
  for (int64_t i = 0; i < image.bytes(); ++i) image.owned[i] = static_cast<uint8_t>(i + 1);
  return image;
}

// The size x size window at (top, left) of an image in an endless black plane.
std::vector<int> window(const Image& image, int64_t top, int64_t left, int64_t size, bool mirrored) {
  std::vector<int> values;
  for (int64_t y = top; y < top + size; ++y) {
    for (int64_t i = 0; i < size; ++i) {
      const int64_t x = mirrored ? left + size - 1 - i : left + i;
      const bool inside = y >= 0 && y < image.height && x >= 0 && x < image.width;
      values.push_back(inside ? image.pixels[y * image.width + x] : 0);
    }
  }
  return values;
}

// Bilinear with antialiasing in double precision: a triangle as wide as the step between output pixels.
std::vector<double> weights(int64_t in, int64_t out, int64_t at) {
  const double scale = static_cast<double>(in) / static_cast<double>(out);
  const double reach = std::max(scale, 1.0);
  const double center = (static_cast<double>(at) + 0.5) * scale;
  std::vector<double> result;
  double sum = 0;
  for (int64_t i = 0; i < in; ++i) {
    result.push_back(std::max(0.0, 1 - std::abs(static_cast<double>(i) + 0.5 - center) / reach));
    sum += result.back();
  }
  for (double& value : result) value /= sum;
  return result;
}

TEST(Resize, IsWithinOneOfTheExactAntialiasedResult) {
  Image image = make_image(61, 97, 3);
  Random random(1, 2, 3);
  for (int64_t i = 0; i < image.bytes(); ++i) image.owned[i] = static_cast<uint8_t>(random.below(256));
  struct Case {
    Box box;
    int64_t height, width;
  };
  for (const Case& c : {Case{{0, 0, 61, 97}, 31, 17}, Case{{0, 0, 61, 97}, 100, 130}, Case{{5, 7, 50, 30}, 24, 24},
                        Case{{60, 96, 1, 1}, 9, 9}, Case{{0, 3, 61, 1}, 1, 5}}) {
    const Image got = resize(image, c.box, c.height, c.width);
    ASSERT_EQ(got.bytes(), c.height * c.width * 3);
    for (int64_t y = 0; y < c.height; ++y) {
      const std::vector<double> wy = weights(c.box.height, c.height, y);
      for (int64_t x = 0; x < c.width; ++x) {
        const std::vector<double> wx = weights(c.box.width, c.width, x);
        for (int64_t channel = 0; channel < 3; ++channel) {
          double exact = 0;
          for (int64_t i = 0; i < c.box.height; ++i) {
            for (int64_t j = 0; j < c.box.width; ++j) {
              exact += wy[i] * wx[j] * image.pixels[((c.box.top + i) * 97 + c.box.left + j) * 3 + channel];
            }
          }
          ASSERT_NEAR(got.pixels[(y * c.width + x) * 3 + channel], exact, 1.0 + 1e-6) << y << " " << x;
        }
      }
    }
  }
}

TEST(Geometry, ScalesTheShorterSideAndRoundsTheLongerDown) {
  const Box wide = scaled_size(375, 500, 256);
  EXPECT_EQ(wide.height, 256);
  EXPECT_EQ(wide.width, 341);
  const Box tall = scaled_size(500, 333, 256);
  EXPECT_EQ(tall.height, 384);
  EXPECT_EQ(tall.width, 256);
}

TEST(Geometry, RandomBoxesStayWithinTheirAreaAspectAndImage) {
  double smallest = 1;
  double largest = 0;
  for (uint64_t seed = 0; seed < 5000; ++seed) {
    Random random(seed, 0, 0);
    const Box box = random_resized_box(400, 600, random);
    ASSERT_GE(box.top, 0);
    ASSERT_GE(box.left, 0);
    ASSERT_LE(box.top + box.height, 400);
    ASSERT_LE(box.left + box.width, 600);
    const double area = static_cast<double>(box.height * box.width) / (400.0 * 600.0);
    const double aspect = static_cast<double>(box.width) / static_cast<double>(box.height);
    ASSERT_GE(aspect, 0.75 * 0.98);
    ASSERT_LE(aspect, 4.0 / 3.0 * 1.02);
    smallest = std::min(smallest, area);
    largest = std::max(largest, area);
  }
  EXPECT_NEAR(smallest, 0.08, 0.01);
  EXPECT_GT(largest, 0.8);
}

TEST(Geometry, ImagesTooNarrowForARandomBoxGiveTheirCentre) {
  Random random(3, 0, 0);
  const Box box = random_resized_box(10, 1000, random);
  EXPECT_EQ(box.height, 10);
  EXPECT_EQ(box.width, 13);
  EXPECT_EQ(box.left, (1000 - 13) / 2);
  for (const auto& [height, width] : {std::pair{1, 1000}, {1000, 1}, {1, 1}}) {
    const Box tiny = random_resized_box(height, width, random);
    EXPECT_GE(tiny.height, 1);
    EXPECT_GE(tiny.width, 1);
    EXPECT_LE(tiny.top + tiny.height, height);
    EXPECT_LE(tiny.left + tiny.width, width);
  }
}

TEST(Transform, ValidationTakesTheCentreRoundingHalvesToEven) {
  InputOptions options = plain_input(1);
  options.scale_val = -1;
  options.crop_val = 4;
  const Transform transform(options, Split::val);
  // Rests of 1, 3, 5 and 7: offsets 0, 2, 2, 4, as Python rounds 0.5, 1.5, 2.5, 3.5.
  for (const auto& [length, offset] : {std::pair<int64_t, int64_t>{5, 0}, {7, 2}, {9, 2}, {11, 4}, {4, 0}, {8, 2}}) {
    const Image image = numbered(length, 15);
    EXPECT_EQ(run_bytes(transform, image, 0), window(image, offset, 6, 4, false)) << length;
  }
}

TEST(Transform, AnImageSmallerThanTheCropIsPaddedWithBlack) {
  InputOptions options = plain_input(1);
  options.scale_val = -1;
  options.crop_val = 8;
  options.crop_train = 8;
  const Image image = numbered(3, 5);
  EXPECT_EQ(run_bytes(Transform(options, Split::val), image, 0), window(image, -2, -1, 8, false));
  options.augmentation = Augmentation::none;
  EXPECT_EQ(run_bytes(Transform(options, Split::train), image, 0), window(image, -2, -1, 8, false));
  options.augmentation = Augmentation::pad_crop;
  options.padding = 1;  // 5 x 7 padded: still smaller
  const std::vector<int> got = run_bytes(Transform(options, Split::train), image, 0);
  EXPECT_TRUE(got == window(image, -2, -1, 8, false) || got == window(image, -2, -1, 8, true));
}

TEST(Transform, ASmallImageIsResizedUpByTheRandomResizedCrop) {
  InputOptions options = plain_input(3);
  options.crop_train = 32;
  const std::vector<int> got = run_bytes(Transform(options, Split::train), constant(5, 3, 3, 99), 4);
  EXPECT_TRUE(std::all_of(got.begin(), got.end(), [](int v) { return v == 99; }));
}

TEST(Transform, PadCropGivesEveryWindowEquallyOften) {
  InputOptions options = plain_input(1);
  options.augmentation = Augmentation::pad_crop;
  options.padding = 2;
  options.crop_train = 6;
  const Transform transform(options, Split::train);
  const Image image = numbered(6, 7);
  std::map<std::vector<int>, int> expected;  // 5 rows x 6 columns x 2
  for (int64_t top = -2; top <= 2; ++top) {
    for (int64_t left = -2; left <= 3; ++left) {
      for (const bool mirrored : {false, true}) expected[window(image, top, left, 6, mirrored)] = 0;
    }
  }
  ASSERT_EQ(expected.size(), 60u);
  constexpr int kDraws = 12000;
  for (uint64_t seed = 0; seed < kDraws; ++seed) {
    const auto found = expected.find(run_bytes(transform, image, seed));
    ASSERT_NE(found, expected.end()) << seed;
    ++found->second;
  }
  // Expected 200 each, deviation 14: five of them either way.
  for (const auto& [values, count] : expected) EXPECT_NEAR(count, kDraws / 60, 71);
}

TEST(Transform, FlipMirrorsHalfOfTheImages) {
  InputOptions options = plain_input(1);
  options.augmentation = Augmentation::flip;
  options.crop_train = 5;
  const Transform transform(options, Split::train);
  const Image image = numbered(5, 5);
  int mirrored = 0;
  for (uint64_t seed = 0; seed < 1000; ++seed) {
    const std::vector<int> got = run_bytes(transform, image, seed);
    ASSERT_TRUE(got == window(image, 0, 0, 5, false) || got == window(image, 0, 0, 5, true));
    mirrored += got == window(image, 0, 0, 5, true);
  }
  EXPECT_NEAR(mirrored, 500, 80);
}

TEST(Transform, NormalisesWithMeanAndDeviationOfEachChannelInBothLayouts) {
  InputOptions options;
  options.scale_val = -1;
  options.crop_val = 9;
  const Transform transform(options, Split::val);
  const Image image = gradient(9, 9, 3);
  const std::vector<float> last = run(transform, image, 0, true);
  const std::vector<float> first = run(transform, image, 0, false);
  for (int64_t i = 0; i < 81; ++i) {
    for (int64_t c = 0; c < 3; ++c) {
      const double exact = (image.pixels[i * 3 + c] / 255.0 - options.mean[c]) / options.std[c];
      EXPECT_NEAR(last[i * 3 + c], exact, 1e-5);
      EXPECT_EQ(first[c * 81 + i], last[i * 3 + c]);
    }
  }
}

TEST(Transform, ScalesBeforeTheCrop) {
  InputOptions options = plain_input(1);
  options.scale_val = 8;
  options.crop_val = 6;
  options.scale_train = 8;
  options.crop_train = 6;
  options.augmentation = Augmentation::none;
  const Image image = numbered(14, 16);
  const Image scaled = resize(image, {0, 0, 14, 16}, 8, 9);
  EXPECT_EQ(run_bytes(Transform(options, Split::val), image, 0), window(scaled, 1, 2, 6, false));
  EXPECT_EQ(run_bytes(Transform(options, Split::train), image, 0), window(scaled, 1, 2, 6, false));
}

TEST(Transform, RefusesAnImageOfOtherChannelsOrTooNarrowToScale) {
  InputOptions options = plain_input(3);
  EXPECT_THAT([&] { run(Transform(options, Split::val), constant(3, 3, 1, 0), 0); },
              testing::ThrowsMessage<DataError>(testing::HasSubstr("must have 3 channels")));
  options.scale_val = 16384;
  EXPECT_THAT([&] { run(Transform(options, Split::val), constant(1, 20, 3, 0), 0); },
              testing::ThrowsMessage<DecodeError>(testing::HasSubstr("1 x 20: too narrow")));
}

}  // namespace
}  // namespace iabn::data::test
