// Decoding no more of a file than is wanted: the same pixels, the same errors; and scaled decoding.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>

#include "data_support.h"
#include "iabn/data/decode.h"
#include "iabn/data/error.h"
#include "iabn/data/random.h"
#include "iabn/data/resize.h"
#include "iabn/data/transform.h"

namespace iabn::data::test {
namespace {

using testing::HasSubstr;
using testing::ThrowsMessage;

Choose want(const Box& box) {
  return [box](int64_t, int64_t) { return Wanted{box, box.height, box.width}; };
}

Choose want_scaled(const Box& box, int64_t height, int64_t width) {
  return [=](int64_t, int64_t) { return Wanted{box, height, width, true}; };
}

Box random_box(int64_t height, int64_t width, Random& random) {
  const int64_t h = 1 + random.below(height), w = 1 + random.below(width);
  return {random.below(height - h + 1), random.below(width - w + 1), h, w};
}

// Number of differing bytes of `part`'s box and of `box` in the whole image.
int64_t differences(const Part& part, const Image& whole, const Box& box) {
  EXPECT_EQ(part.box.height, box.height);
  EXPECT_EQ(part.box.width, box.width);
  int64_t count = 0;
  const int64_t channels = whole.channels;
  for (int64_t y = 0; y < box.height; ++y) {
    const uint8_t* a = part.image.pixels + ((part.box.top + y) * part.image.width + part.box.left) * channels;
    const uint8_t* b = whole.pixels + ((box.top + y) * whole.width + box.left) * channels;
    for (int64_t i = 0; i < box.width * channels; ++i) count += a[i] != b[i];
  }
  return count;
}

void expect_same_pixels(const Bytes& bytes, int64_t channels, int boxes, const std::string& what) {
  const Image whole = decode_image(bytes, channels, "whole");
  Random random(9, 0, 0);
  for (int i = 0; i < boxes; ++i) {
    const Box box = random_box(whole.height, whole.width, random);
    const Part part = decode_part(bytes, channels, "part", want(box));
    ASSERT_EQ(differences(part, whole, box), 0)
        << what << ": " << box.height << " x " << box.width << " at " << box.top << ", " << box.left;
  }
}

// Noise, so that one wrong neighbour shows; sizes that do not fill the last blocks.
TEST(Part, EveryKindOfJpegGivesTheSamePixelsAsTheWholeImage) {
  for (const auto& [h, v] : {std::pair{1, 1}, {2, 1}, {1, 2}, {2, 2}, {4, 1}}) {
    for (const bool progressive : {false, true}) {
      for (const unsigned restart_rows : {0u, 1u}) {
        const JpegOptions options{
            .progressive = progressive, .quality = 90, .h_samples = h, .v_samples = v, .restart_rows = restart_rows};
        for (const auto& [height, width] : {std::pair<int64_t, int64_t>{150, 203}, {97, 64}, {33, 129}}) {
          const Bytes bytes = encode_jpeg(noise(height, width, 3, 4), options);
          const std::string what = std::to_string(h) + "x" + std::to_string(v) + (progressive ? " progressive" : "");
          expect_same_pixels(bytes, 3, 150, what);
        }
      }
    }
  }
}

TEST(Part, GreyCmykAndPngGiveTheSamePixelsAsTheWholeImage) {
  expect_same_pixels(encode_jpeg(noise(90, 130, 1, 1)), 1, 100, "grey");
  expect_same_pixels(encode_jpeg(noise(90, 130, 1, 1)), 3, 100, "grey to RGB");
  expect_same_pixels(encode_jpeg(noise(90, 130, 3, 2)), 1, 100, "RGB to grey");
  expect_same_pixels(encode_jpeg(noise(90, 130, 4, 3)), 3, 100, "CMYK");
  expect_same_pixels(encode_png(noise(40, 50, 3, 3)), 3, 50, "PNG");
}

TEST(Part, ATruncatedFileIsAnErrorWhereverTheBoxLies) {
  const Bytes whole = encode_jpeg(noise(128, 128, 3, 5));
  for (const size_t cut : {size_t{1}, size_t{2}, size_t{100}, whole.size() / 2}) {
    const Bytes part(whole.begin(), whole.end() - static_cast<std::ptrdiff_t>(cut));
    EXPECT_THAT(
        [&] {
          decode_part(part, 3, "x.jpg", want({0, 0, 8, 8}));
        },
        ThrowsMessage<DecodeError>(HasSubstr("x.jpg: truncated")))
        << cut;
  }
}

TEST(Part, ItsImageIsLittleLargerThanTheBox) {
  const Part part = decode_part(encode_jpeg(noise(600, 800, 3, 5)), 3, "x", want({300, 400, 50, 60}));
  EXPECT_LE(part.image.height, 50 + 32);
  EXPECT_LE(part.image.width, 60 + 48);
}

TEST(Part, MutatedFilesGiveAPartOrAnError) {
  const Bytes valid = encode_jpeg(gradient(60, 70, 3));
  const Bytes progressive = encode_jpeg(gradient(60, 70, 3), {.progressive = true});
  Random random(3, 0, 0);
  int parts = 0;
  for (int i = 0; i < 3000; ++i) {
    Bytes bytes = i % 2 ? valid : progressive;
    for (int k = 0; k < 3; ++k) {
      bytes[static_cast<size_t>(random.below(static_cast<int64_t>(bytes.size())))] =
          static_cast<uint8_t>(random.below(256));
    }
    const auto choose = [&](int64_t height, int64_t width) {
      const Box box = random_box(height, width, random);
      return Wanted{box, 1 + random.below(box.height), 1 + random.below(box.width), i % 3 == 0};
    };
    try {
      const Part part = decode_part(bytes, 3, "fuzz", choose);
      ASSERT_GE(part.box.top, 0);
      ASSERT_GE(part.box.left, 0);
      ASSERT_LE(part.box.top + part.box.height, part.image.height);
      ASSERT_LE(part.box.left + part.box.width, part.image.width);
      ++parts;
    } catch (const DecodeError&) {
    }
  }
  EXPECT_GT(parts, 500);
}

TEST(Scaled, TheScaleIsTheLeastThatIsLargeEnough) {
  EXPECT_EQ(jpeg_scale({{0, 0, 1000, 1000}, 224, 224, false}), 8);
  EXPECT_EQ(jpeg_scale({{0, 0, 223, 5000}, 224, 224, true}), 8);
  for (const auto& [side, scale] :
       {std::pair<int64_t, int>{224, 8}, {447, 8}, {448, 4}, {895, 4}, {896, 2}, {1791, 2}, {1792, 1}, {100000, 1}}) {
    EXPECT_EQ(jpeg_scale({{0, 0, side, 5000}, 224, 224, true}), scale) << side;
    EXPECT_EQ(jpeg_scale({{0, 0, 5000, side}, 224, 224, true}), scale) << side;
  }
}

TEST(Scaled, TheBoxIsNoSmallerThanTheOutputAndTheSamePlace) {
  const Image image = gradient(523, 701, 3);
  const Bytes bytes = encode_jpeg(image, {.quality = 98});
  Random random(4, 0, 0);
  for (int i = 0; i < 300; ++i) {
    const Box box = random_box(image.height, image.width, random);
    const int64_t height = 1 + random.below(box.height), width = 1 + random.below(box.width);
    const Part part = decode_part(bytes, 3, "x", want_scaled(box, height, width));
    ASSERT_GE(part.box.height, height);
    ASSERT_GE(part.box.width, width);
    ASSERT_LE(part.box.top + part.box.height, part.image.height);
    ASSERT_LE(part.box.left + part.box.width, part.image.width);
    // The gradient tells where a pixel comes from: 90 units over the height, 40 over the width.
    const Image got = resize(part.image, part.box, height, width);
    const Image expected = resize(image, box, height, width);
    for (int64_t k = 0; k < got.bytes(); ++k) ASSERT_NEAR(got.pixels[k], expected.pixels[k], 4) << i;
  }
}

TEST(Scaled, ATransformWithoutTheKeyDecodesAtFullScale) {
  InputOptions options;
  options.crop_train = 20;
  for (const bool scaled : {false, true}) {
    options.scaled_decode = scaled;
    EXPECT_EQ(Transform(options, Split::train).plan(400, 400, Random(1, 0, 0)).wanted.scaled, scaled);
  }
}

}  // namespace
}  // namespace iabn::data::test
