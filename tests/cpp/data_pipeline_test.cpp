// The loader on JPEG files, all the way: partial decoding changes nothing, nor do workers; batches and their memory.

#include <ATen/ops/equal.h>
#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "data_support.h"
#include "iabn/data/batch_memory.h"
#include "iabn/data/error.h"
#include "iabn/data/loader.h"
#include "iabn/data/random.h"
#include "iabn/data/transform.h"

namespace iabn::data::test {
namespace {

// One class of eight photographs-to-be of several sizes and kinds.
void write_jpeg_folder(const TempFolder& folder) {
  for (int i = 0; i < 8; ++i) {
    const Image image = noise(70 + 13 * i, 120 - 7 * i, i == 5 ? 1 : 3, static_cast<uint64_t>(i));
    const Bytes bytes = encode_jpeg(image, {.progressive = i % 3 == 2, .h_samples = 1 + i % 2, .v_samples = 1 + i % 2});
    write_file(folder.path() / "train/a" / ("image" + std::to_string(i) + ".jpg"), bytes);
  }
}

InputOptions all_colors(Augmentation augmentation) {
  InputOptions input;
  input.augmentation = augmentation;
  input.padding = 20;
  input.crop_train = 33;
  input.color_jitter_train = true;
  input.lighting_train = true;
  return input;
}

std::vector<Batch> batches_of(Loader& loader, int64_t epoch) {
  loader.start_epoch(epoch);
  std::vector<Batch> batches;
  while (auto batch = loader.next()) batches.push_back(std::move(*batch));
  return batches;
}

TEST(Pipeline, PartialDecodingGivesTheTransformOfTheWholeImage) {
  const TempFolder folder;
  write_jpeg_folder(folder);
  for (const Augmentation augmentation :
       {Augmentation::random_resized_crop, Augmentation::pad_crop, Augmentation::flip, Augmentation::none}) {
    for (const int64_t scale_train : {-1, 50}) {
      InputOptions input = all_colors(augmentation);
      input.scale_train = scale_train;
      const auto data = open_dataset(folder.path(), Split::train, input);
      LoaderOptions options;
      options.batch_size = 8;
      options.workers = 1;
      Loader loader(image_samples(data, input, Split::train), options);
      const Transform transform(input, Split::train);
      for (int64_t epoch = 0; epoch < 6; ++epoch) {
        const Batch batch = batches_of(loader, epoch).at(0);
        for (int64_t i = 0; i < 8; ++i) {
          const int64_t index = batch.indices[static_cast<size_t>(i)];
          const Random random(options.seed, static_cast<uint64_t>(epoch), static_cast<uint64_t>(index));
          std::vector<float> expected(3 * 33 * 33);
          transform(data->image(index), random, false, expected.data());
          const float* got = batch.images.const_data_ptr<float>() + i * 3 * 33 * 33;
          ASSERT_TRUE(std::equal(expected.begin(), expected.end(), got))
              << to_string(augmentation) << " " << scale_train << " image " << index;
        }
      }
    }
  }
}

TEST(Pipeline, TheNumberOfWorkersChangesNothingWithEverythingOn) {
  const TempFolder folder;
  write_jpeg_folder(folder);
  InputOptions input = all_colors(Augmentation::random_resized_crop);
  input.crop_train = 17;
  input.scaled_decode = true;
  const auto data = open_dataset(folder.path(), Split::train, input);
  LoaderOptions options;
  options.batch_size = 3;
  options.channels_last = true;
  options.workers = 0;
  Loader reference(image_samples(data, input, Split::train), options);
  for (const int64_t workers : {1, 4}) {
    options.workers = workers;
    Loader loader(image_samples(data, input, Split::train), options);
    for (const int64_t epoch : {0, 1, 2}) {
      const auto expected = batches_of(reference, epoch), got = batches_of(loader, epoch);
      ASSERT_TRUE(expected.size() == 2 && got.size() == 2);
      for (size_t i = 0; i < 2; ++i) {
        EXPECT_EQ(got[i].indices, expected[i].indices);
        EXPECT_TRUE(at::equal(got[i].images, expected[i].images));
      }
    }
  }
}

TEST(Pipeline, BatchesOutliveTheLoaderAndKeepTheirMemory) {
  const auto data = std::make_shared<Numbers>(32);
  for (const bool channels_last : {false, true}) {
    LoaderOptions options = LoaderOptions::for_validation(8, 2);
    options.channels_last = channels_last;
    std::vector<Batch> kept;
    {
      Loader loader(image_samples(data, small_input(), Split::val), options);
      for (const int64_t epoch : {0, 1}) {
        batches_of(loader, epoch);  // whose memory is used again
        for (Batch& batch : batches_of(loader, epoch)) kept.push_back(std::move(batch));
      }
    }
    ASSERT_EQ(kept.size(), 8u);
    for (size_t i = 0; i < kept.size(); ++i) {
      const auto expected = static_cast<float>(8 * (i % 4) + 5);
      EXPECT_NEAR(kept[i].images[5][0][0][0].item<float>() * 255, expected, 1e-3);
    }
  }
}

// Sample i: its first random number, and i as the label.
class Draws final : public Samples {
 public:
  explicit Draws(int64_t bad = -1) : bad_(bad) {}
  int64_t size() const override { return 5; }
  SampleShape shape() const override { return {1, 1, 1, 1, {}}; }
  std::string name(int64_t index) const override { return "draw[" + std::to_string(index) + "]"; }
  void read(int64_t index, const Random& random, bool, float* images, int64_t* labels) const override {
    if (index == bad_) throw DecodeError("test", name(index), "is bad");
    Random own = random;
    *images = static_cast<float>(own.uniform(0, 1));
    *labels = index;
  }

 private:
  int64_t bad_;
};

TEST(RepeatedSamples, EverySampleComesSoOftenInAnEpochAndIsAnotherEachTime) {
  const auto samples = repeated_samples(std::make_shared<Draws>(), 3);
  ASSERT_EQ(samples->size(), 15);
  EXPECT_EQ(samples->name(4), "draw[4]");
  EXPECT_EQ(samples->name(14), "draw[4]");
  LoaderOptions options;
  options.batch_size = 15;
  Loader loader(samples, options);
  const Batch batch = batches_of(loader, 0).at(0);
  std::map<int64_t, std::set<float>> seen;
  for (int64_t i = 0; i < 15; ++i) {
    EXPECT_EQ(batch.labels[i].item<int64_t>(), batch.indices[static_cast<size_t>(i)] % 5);
    seen[batch.labels[i].item<int64_t>()].insert(batch.images[i].item<float>());
  }
  ASSERT_EQ(seen.size(), 5u);
  for (const auto& [label, draws] : seen) EXPECT_EQ(draws.size(), 3u) << label;
}

TEST(RepeatedSamples, OnceIsTheSamplesAndLessIsAnError) {
  const auto samples = std::make_shared<Draws>();
  EXPECT_EQ(repeated_samples(samples, 1), samples);
  for (const int64_t times : {0, -1}) EXPECT_THROW(repeated_samples(samples, times), DataError);
}

TEST(RepeatedSamples, ABadOneIsNamedOnce) {
  LoaderOptions options;
  options.batch_size = 15;
  options.skip_corrupt = true;
  Loader loader(repeated_samples(std::make_shared<Draws>(2), 3), options);
  EXPECT_EQ(batches_of(loader, 0).size(), 1u);
  EXPECT_EQ(loader.skipped(), std::vector<std::string>{"test: draw[2]: is bad"});
}

TEST(BatchMemory, IsUsedAgainAndNoMoreIsKeptThanAllowed) {
  const auto memory = std::make_shared<BatchMemory>(4 * 3 * 5 * 5 * sizeof(float), 1);
  const std::vector<int64_t> sizes = {4, 3, 5, 5};
  at::Tensor first = memory->take(sizes, at::kFloat, at::MemoryFormat::Contiguous);
  EXPECT_TRUE(first.is_contiguous());
  const void* place = first.data_ptr();
  at::Tensor second = memory->take(sizes, at::kFloat, at::MemoryFormat::ChannelsLast);
  EXPECT_TRUE(second.is_contiguous(at::MemoryFormat::ChannelsLast));
  EXPECT_NE(second.data_ptr(), place);
  first.reset();
  second.reset();  // one is kept already
  EXPECT_EQ(memory->take({2, 3, 5, 5}, at::kFloat, at::MemoryFormat::Contiguous).data_ptr(), place);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(place) % 64, 0u);
}

}  // namespace
}  // namespace iabn::data::test
