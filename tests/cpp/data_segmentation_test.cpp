// The transform of pictures with masks, and batches of them.

#include <ATen/ops/equal.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "data_support.h"
#include "iabn/data/error.h"
#include "iabn/data/loader.h"
#include "iabn/data/segmentation_samples.h"

namespace iabn::data::test {
namespace {

using testing::HasSubstr;
using testing::ThrowsMessage;

constexpr int64_t kIgnore = 255;

InputOptions crop_of(int64_t size) {
  InputOptions input = plain_input(3);
  input.crop_train = size;
  return input;
}

SegmentationTransform make(int64_t size, double lowest, double highest) {
  return {crop_of(size), {lowest, highest}, kIgnore};
}

// A picture that tells its mask: red = column, green = row, blue = 255. As a mask, the column or the row alone.
Image map_of(int64_t height, int64_t width) {
  Image image = make_image(height, width, 3);
  uint8_t* out = image.owned.get();
  for (int64_t y = 0; y < height; ++y) {
    for (int64_t x = 0; x < width; ++x) {
      *out++ = static_cast<uint8_t>(x);
      *out++ = static_cast<uint8_t>(y);
      *out++ = 255;
    }
  }
  return image;
}

Image channel(const Image& image, int64_t c) {
  Image one = make_image(image.height, image.width, 1);
  for (int64_t i = 0; i < one.bytes(); ++i) one.owned[i] = image.pixels[3 * i + c];
  return one;
}

struct Sample {
  Plan plan;
  std::vector<float> image;  // [S, S, 3], times 255
  std::vector<int64_t> columns, rows;
};

Sample apply(const SegmentationTransform& transform, const Image& map, uint64_t seed) {
  const auto pixels = static_cast<size_t>(transform.size() * transform.size());
  Sample sample{transform.plan(map.height, map.width, Random(seed, 0, 0)), std::vector<float>(3 * pixels, -1e9f),
                std::vector<int64_t>(pixels, -1), std::vector<int64_t>(pixels, -1)};
  const Part part{{map.height, map.width, 3, map.pixels}, sample.plan.wanted.box};
  transform.write_image(part, sample.plan, true, sample.image.data());
  for (float& value : sample.image) value *= 255;
  transform.write_labels(channel(map, 0), sample.plan, sample.columns.data());
  transform.write_labels(channel(map, 1), sample.plan, sample.rows.data());
  return sample;
}

TEST(SegmentationTransform, PictureAndMaskStayTogetherUnderScaleCropAndFlip) {
  const Image map = map_of(90, 120);
  for (const int64_t size : {33, 64, 200}) {
    const SegmentationTransform transform = make(size, 0.5, 2);
    double off_columns = 0, off_rows = 0, count = 0;
    for (uint64_t seed = 0; seed < 100; ++seed) {
      const Sample sample = apply(transform, map, seed);
      for (size_t i = 0; i < sample.columns.size(); ++i) {
        const float* pixel = &sample.image[3 * i];
        if (sample.columns[i] == kIgnore) {
          ASSERT_TRUE(pixel[0] == 0 && pixel[1] == 0 && pixel[2] == 0) << "no picture, yet not black";
          continue;
        }
        ASSERT_NEAR(pixel[2], 255, 1e-3);
        // A ramp resized is the coordinate of the pixel's centre: within half a pixel of the one that holds it, but
        // where antialiasing meets an edge.
        ASSERT_NEAR(pixel[0], static_cast<float>(sample.columns[i]), 1.6) << size << ' ' << seed;
        ASSERT_NEAR(pixel[1], static_cast<float>(sample.rows[i]), 1.6) << size << ' ' << seed;
        off_columns += pixel[0] - static_cast<double>(sample.columns[i]);
        off_rows += pixel[1] - static_cast<double>(sample.rows[i]);
        ++count;
      }
    }
    EXPECT_NEAR(off_columns / count, 0, 0.05);  // a shift of half a pixel would be ten times as much
    EXPECT_NEAR(off_rows / count, 0, 0.05);
  }
}

TEST(SegmentationTransform, AtScaleOneAPictureOfTheCropsSizeIsItself) {
  const Image map = map_of(40, 40);
  const SegmentationTransform transform = make(40, 1, 1);
  for (uint64_t seed = 0; seed < 8; ++seed) {
    const Sample sample = apply(transform, map, seed);
    for (int64_t i = 0; i < 1600; ++i) {
      const int64_t x = sample.plan.mirrored ? 39 - i % 40 : i % 40;
      ASSERT_EQ(sample.columns[i], x);
      ASSERT_EQ(sample.rows[i], i / 40);
      ASSERT_NEAR(sample.image[3 * i], static_cast<float>(x), 1e-3);
      ASSERT_NEAR(sample.image[3 * i + 1], static_cast<float>(i / 40), 1e-3);
    }
  }
}

TEST(SegmentationTransform, ASmallPictureLiesAnywhereInTheCropAndTheRestIsIgnored) {
  const Image map = map_of(4, 6);
  const SegmentationTransform transform = make(8, 1, 1);
  std::map<std::pair<int64_t, int64_t>, int> places;
  for (uint64_t seed = 0; seed < 1500; ++seed) {
    const Sample sample = apply(transform, map, seed);
    ASSERT_EQ(std::count(sample.columns.begin(), sample.columns.end(), kIgnore), 64 - 24);
    const auto first = std::find_if(sample.rows.begin(), sample.rows.end(), [](int64_t v) { return v != kIgnore; });
    const int64_t at = first - sample.rows.begin();
    ++places[{at / 8, at % 8}];
    for (int64_t i = 0; i < 24; ++i) {
      const int64_t x = i % 6, to = at + i / 6 * 8 + x;
      ASSERT_EQ(sample.columns[to], sample.plan.mirrored ? 5 - x : x);
      ASSERT_EQ(sample.rows[to], i / 6);
    }
  }
  EXPECT_EQ(places.size(), 5u * 3u);
  for (const auto& [place, count] : places) EXPECT_NEAR(count, 100, 50);  // five deviations
}

TEST(SegmentationTransform, CropsAndFlipsAreFairAndScalesUniformInTheirLogarithm) {
  const SegmentationTransform transform = make(64, 0.25, 4);
  constexpr int kDraws = 4000;
  int mirrored = 0, at_top = 0, quarters[4] = {};
  for (uint64_t seed = 0; seed < kDraws; ++seed) {
    const Plan plan = transform.plan(300, 300, Random(seed, 0, 0));
    const double scale = 64.0 / static_cast<double>(plan.wanted.box.height);
    ++quarters[std::clamp(static_cast<int>(std::floor(std::log2(scale) + 2)), 0, 3)];
    mirrored += plan.mirrored;
    at_top += plan.wanted.box.top < (300 - plan.wanted.box.height + 1) / 2;
    EXPECT_EQ(plan.wanted.box.height, plan.wanted.box.width);
    EXPECT_EQ(plan.wanted.height, 64);
  }
  for (const int count : quarters) EXPECT_NEAR(count, kDraws / 4, 150);
  EXPECT_NEAR(mirrored, kDraws / 2, 160);
  EXPECT_NEAR(at_top, kDraws / 2, 160);
}

TEST(SegmentationTransform, OnlyTheCropIsAskedFor) {
  const SegmentationTransform transform = make(100, 2, 2);
  const Plan plan = transform.plan(1000, 2000, Random(1, 0, 0));
  EXPECT_EQ(plan.wanted.box.height, 50);
  EXPECT_EQ(plan.wanted.box.width, 50);
  EXPECT_EQ(plan.wanted.height, 100);
}

TEST(SegmentationTransform, ExtremesOfShapeAndScaleKeepAtLeastOnePixelOfThePicture) {
  for (const double scale : {0.01, 16.0}) {
    for (const auto& [height, width] : {std::pair{1, 1}, {1, 200}, {200, 1}, {3, 5}}) {
      for (uint64_t seed = 0; seed < 20; ++seed) {
        const Sample sample = apply(make(7, scale, scale), map_of(height, width), seed);
        const auto seen = 49 - std::count(sample.columns.begin(), sample.columns.end(), kIgnore);
        ASSERT_GE(seen, 1);
        ASSERT_EQ(seen, sample.plan.wanted.height * sample.plan.wanted.width);
      }
    }
  }
}

TEST(SegmentationTransform, ColourJitterAndNormalisationChangeThePictureAlone) {
  const Image map = map_of(50, 50);
  InputOptions input = crop_of(32);
  input.mean = {0.1, 0.2, 0.3};
  input.std = {0.5, 0.6, 0.7};
  const Sample plain = apply(make(32, 0.5, 2), map, 4);
  const Sample normalised = apply({input, {0.5, 2}, kIgnore}, map, 4);
  for (size_t i = 0; i < plain.image.size(); ++i) {
    ASSERT_NEAR(normalised.image[i], (plain.image[i] - 255 * input.mean[i % 3]) / input.std[i % 3], 1e-2);
  }
  input.color_jitter_train = true;
  const Sample jittered = apply({input, {0.5, 2}, kIgnore}, map, 4);
  EXPECT_NE(jittered.image, normalised.image);
  EXPECT_EQ(jittered.columns, plain.columns);
  EXPECT_EQ(jittered.rows, plain.rows);
}

TEST(SegmentationTransform, OptionErrorsNameTheOption) {
  const auto expect = [](double lowest, double highest) {
    EXPECT_THAT([&] { make(8, lowest, highest); },
                ThrowsMessage<DataError>(HasSubstr("scale_train: must be [lowest, highest] within 0.01 to 16, got [")));
  };
  expect(2, 0.5);
  expect(0, 1);
  expect(1, 1000);
  expect(std::nan(""), 1);
  expect(1, std::nan(""));
  EXPECT_THAT([&] { SegmentationTransform(plain_input(1), {}, kIgnore); },
              ThrowsMessage<DataError>(HasSubstr("channels: must be 3 for segmentation, got 1")));
  EXPECT_THAT([&] { segmentation_samples(nullptr, plain_input(3), {}); },
              ThrowsMessage<DataError>(HasSubstr("expected a folder of pictures and masks, got none")));
}

// `count` pairs of 30 x 40 or 40 x 30: picture i is a map of its place, its mask i everywhere.
class SegmentationLoader : public testing::Test {
 protected:
  static constexpr int kCount = 13;

  SegmentationLoader() {
    for (int i = 0; i < kCount; ++i) {
      const Image map = i % 2 == 0 ? map_of(30, 40) : map_of(40, 30);
      write_file(image_path(i), i % 3 == 0 ? encode_jpeg(map) : encode_png(map));
      write_file(mask_path(i), encode_png(constant(map.height, map.width, 1, static_cast<uint8_t>(i))));
    }
  }

  std::filesystem::path image_path(int i) const {
    return folder_.path() / "train/images" / (name(i) + (i % 3 == 0 ? ".jpg" : ".png"));
  }
  std::filesystem::path mask_path(int i) const { return folder_.path() / "train/masks" / (name(i) + ".png"); }
  std::shared_ptr<const Samples> samples() const {
    const auto folder = std::make_shared<SegmentationFolder>(folder_.path(), "train", kCount, kIgnore);
    return segmentation_samples(folder, crop_of(24), {});
  }
  std::vector<Batch> batches(const LoaderOptions& options, int64_t epoch, int64_t first_batch = 0) const {
    Loader loader(samples(), options);
    loader.start_epoch(epoch, first_batch);
    std::vector<Batch> all;
    while (auto batch = loader.next()) all.push_back(*std::move(batch));
    return all;
  }

  static LoaderOptions training(int64_t batch_size, int64_t workers = 2) {
    LoaderOptions options;
    options.batch_size = batch_size;
    options.workers = workers;
    return options;
  }
  // Every pixel's label is ignored or the index.
  static void expect_labels_of_index(const Batch& batch) {
    ASSERT_EQ(batch.images.size(0), static_cast<int64_t>(batch.indices.size()));
    ASSERT_EQ(batch.labels.size(0), static_cast<int64_t>(batch.indices.size()));
    const int64_t* label = batch.labels.const_data_ptr<int64_t>();
    const int64_t per_image = batch.labels[0].numel();
    for (const int64_t index : batch.indices) {
      int64_t seen = 0;
      for (int64_t i = 0; i < per_image; ++i, ++label) {
        ASSERT_TRUE(*label == index || *label == kIgnore);
        seen += *label == index;
      }
      EXPECT_GT(seen, 0);
    }
  }

 private:
  static std::string name(int i) { return std::string(1, static_cast<char>('a' + i)); }
  TempFolder folder_;
};

TEST_F(SegmentationLoader, BatchesHaveALabelForEveryPixel) {
  at::Tensor first;
  for (const bool channels_last : {false, true}) {
    LoaderOptions options = training(5);
    options.channels_last = channels_last;
    const auto all = batches(options, 0);
    ASSERT_EQ(all.size(), 2u);
    const Batch& batch = all[0];
    EXPECT_EQ(batch.images.sizes(), (std::vector<int64_t>{5, 3, 24, 24}));
    EXPECT_TRUE(
        batch.images.is_contiguous(channels_last ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous));
    EXPECT_EQ(batch.labels.sizes(), (std::vector<int64_t>{5, 24, 24}));
    EXPECT_EQ(batch.labels.scalar_type(), at::kLong);
    EXPECT_TRUE(batch.labels.is_contiguous());
    expect_labels_of_index(batch);
    EXPECT_TRUE(!channels_last || at::equal(batch.images, first));
    first = batch.images;
  }
}

TEST_F(SegmentationLoader, NeitherWorkersNorResumingChangeABatch) {
  const auto expected = batches(training(3, 0), 1);
  ASSERT_EQ(expected.size(), 4u);
  EXPECT_FALSE(at::equal(expected[0].images, batches(training(3, 0), 2)[0].images));
  for (const int64_t workers : {0, 1, 4}) {
    for (const int64_t first : {0, 2}) {
      const auto got = batches(training(3, workers), 1, first);
      ASSERT_EQ(static_cast<int64_t>(got.size()), 4 - first);
      for (size_t i = 0; i < got.size(); ++i) {
        const Batch& want = expected[i + static_cast<size_t>(first)];
        EXPECT_EQ(got[i].indices, want.indices);
        EXPECT_TRUE(at::equal(got[i].images, want.images));
        EXPECT_TRUE(at::equal(got[i].labels, want.labels));
      }
    }
  }
}

TEST_F(SegmentationLoader, ABadMaskIsReportedWithItsPathOrPassedOver) {
  write_file(mask_path(4), encode_png(constant(30, 40, 1, kCount)));  // outside the classes
  write_file(mask_path(7), encode_png(constant(30, 40, 1, 7)));       // turned
  write_file(image_path(8), {});
  LoaderOptions options = training(kCount);
  options.shuffle = false;
  EXPECT_THAT([&] { batches(options, 0); }, ThrowsMessage<DecodeError>(HasSubstr(".png: ")));
  options.skip_corrupt = true;
  const auto replaced = batches(options, 0);
  ASSERT_EQ(replaced.size(), 1u);
  EXPECT_EQ(replaced[0].indices, (std::vector<int64_t>{0, 1, 2, 3, 5, 5, 6, 9, 9, 9, 10, 11, 12}));
  expect_labels_of_index(replaced[0]);
  options.replace_skipped = false;
  const auto left_out = batches(options, 0);
  ASSERT_EQ(left_out.size(), 1u);
  EXPECT_EQ(left_out[0].indices, (std::vector<int64_t>{0, 1, 2, 3, 5, 6, 9, 10, 11, 12}));
  expect_labels_of_index(left_out[0]);
}

}  // namespace
}  // namespace iabn::data::test
