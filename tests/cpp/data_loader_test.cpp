// The loader: determinism, completeness, errors, clean ends.

#include "iabn/data/loader.h"

#include <ATen/Context.h>
#include <ATen/ops/equal.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <numeric>
#include <thread>

#include "data_support.h"
#include "iabn/data/error.h"

namespace iabn::data::test {
namespace {

using testing::HasSubstr;
using testing::ThrowsMessage;

LoaderOptions training(int64_t batch_size) {
  LoaderOptions options;
  options.batch_size = batch_size;
  return options;
}

std::vector<Batch> take_all(Loader& loader, int64_t epoch, int64_t first_batch = 0) {
  loader.start_epoch(epoch, first_batch);
  std::vector<Batch> batches;
  while (auto batch = loader.next()) batches.push_back(*std::move(batch));
  return batches;
}

void expect_same(const Batch& a, const Batch& b) {
  EXPECT_EQ(a.number, b.number);
  EXPECT_EQ(a.indices, b.indices);
  EXPECT_TRUE(at::equal(a.labels, b.labels));
  EXPECT_TRUE(at::equal(a.images, b.images));
}

std::vector<int64_t> all_indices(const std::vector<Batch>& batches) {
  std::vector<int64_t> indices;
  for (const Batch& batch : batches) indices.insert(indices.end(), batch.indices.begin(), batch.indices.end());
  return indices;
}

TEST(Loader, BatchesHaveTheAgreedShapesTypesAndMemoryFormat) {
  const TempFolder folder;
  write_image_folder(folder.path(), 5);
  InputOptions input;
  input.crop_train = 24;
  const auto data = open_dataset(folder.path(), Split::train, input);
  at::Tensor first;
  for (const bool channels_last : {false, true}) {
    LoaderOptions options = training(4);
    options.channels_last = channels_last;
    Loader loader(image_samples(data, input, Split::train), options);
    EXPECT_EQ(loader.batches(), 2);
    loader.start_epoch(0);
    const Batch batch = loader.next().value();
    EXPECT_EQ(batch.images.sizes(), (std::vector<int64_t>{4, 3, 24, 24}));
    EXPECT_EQ(batch.images.scalar_type(), at::kFloat);
    EXPECT_TRUE(
        batch.images.is_contiguous(channels_last ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous));
    EXPECT_EQ(batch.labels.sizes(), (std::vector<int64_t>{4}));
    EXPECT_EQ(batch.labels.scalar_type(), at::kLong);
    EXPECT_TRUE(!channels_last || at::equal(batch.images, first));
    first = batch.images;
  }
}

TEST(Loader, PixelsAndLabelsBelongToTheIndex) {
  const TempFolder folder;
  write_image_folder(folder.path(), 5);
  InputOptions input;
  input.crop_train = 24;
  const auto data = open_dataset(folder.path(), Split::train, input);
  LoaderOptions options = training(5);
  Loader loader(image_samples(data, input, Split::train), options);
  for (const Batch& batch : take_all(loader, 0)) {
    for (int64_t i = 0; i < 5; ++i) {
      const int64_t index = batch.indices[i];  // files image0 to image4 of ant, then of bee
      EXPECT_EQ(batch.labels[i].item<int64_t>(), index / 5);
      const double value = static_cast<double>(10 * (index % 5) + 100 * (index / 5));
      for (int64_t c = 0; c < 3; ++c) {
        EXPECT_NEAR(batch.images[i][c][11][13].item<float>(), (value / 255 - input.mean[c]) / input.std[c], 1e-4);
      }
    }
  }
}

TEST(Loader, TheNumberOfWorkersChangesNothing) {
  const auto data = std::make_shared<Numbers>(203);
  LoaderOptions options = training(16);
  options.workers = 0;
  options.seed = 5;
  Loader reference(image_samples(data, small_input(), Split::train), options);
  for (const int64_t workers : {1, 2, 5}) {
    options.workers = workers;
    options.prefetch = workers;
    Loader loader(image_samples(data, small_input(), Split::train), options);
    for (const int64_t epoch : {0, 3}) {
      const auto expected = take_all(reference, epoch);
      const auto got = take_all(loader, epoch);
      ASSERT_TRUE(got.size() == 12 && expected.size() == 12);
      for (size_t i = 0; i < got.size(); ++i) expect_same(got[i], expected[i]);
    }
  }
}

TEST(Loader, EpochsAndSeedsDifferInOrderAndAugmentation) {
  const auto data = std::make_shared<Numbers>(64);
  LoaderOptions options = training(64);
  Loader loader(image_samples(data, small_input(), Split::train), options);
  const auto first = take_all(loader, 0);
  const auto second = take_all(loader, 1);
  options.seed = 1;
  Loader other(image_samples(data, small_input(), Split::train), options);
  EXPECT_NE(first[0].indices, second[0].indices);
  EXPECT_NE(first[0].indices, take_all(other, 0)[0].indices);
  expect_same(take_all(loader, 0)[0], first[0]);
  options.shuffle = false;
  Loader ordered(image_samples(data, small_input(), Split::train), options);
  EXPECT_FALSE(at::equal(take_all(ordered, 0)[0].images, take_all(ordered, 1)[0].images));
}

TEST(Loader, AnEpochMayBeResumedAtAnyBatch) {
  const auto data = std::make_shared<Numbers>(50);
  LoaderOptions options = training(8);
  Loader loader(image_samples(data, small_input(), Split::train), options);
  const auto whole = take_all(loader, 2);
  ASSERT_EQ(whole.size(), 6u);
  for (int64_t first = 0; first <= 6; ++first) {
    const auto rest = take_all(loader, 2, first);
    ASSERT_EQ(static_cast<int64_t>(rest.size()), 6 - first);
    for (size_t i = 0; i < rest.size(); ++i) expect_same(rest[i], whole[first + i]);
  }
}

TEST(Loader, ShuffleIsAFairPermutation) {
  const auto data = std::make_shared<Numbers>(6);
  LoaderOptions options = training(6);
  options.workers = 0;
  Loader loader(image_samples(data, small_input(), Split::train), options);
  std::vector<std::vector<int>> counts(6, std::vector<int>(6, 0));  // [place, index]
  constexpr int kEpochs = 3000;
  for (int epoch = 0; epoch < kEpochs; ++epoch) {
    std::vector<int64_t> indices = take_all(loader, epoch)[0].indices;
    for (int place = 0; place < 6; ++place) ++counts[place][indices[place]];
    std::sort(indices.begin(), indices.end());
    ASSERT_EQ(indices, (std::vector<int64_t>{0, 1, 2, 3, 4, 5}));
  }
  for (const auto& row : counts) {
    for (const int count : row) EXPECT_NEAR(count, kEpochs / 6, 100);  // five deviations
  }
}

TEST(Loader, ValidationGivesEveryImageOnceInOrderWhateverTheNumberOfProcesses) {
  const auto data = std::make_shared<Numbers>(53);
  std::vector<int64_t> expected(53);
  std::iota(expected.begin(), expected.end(), 0);
  for (const int64_t world : {1, 2, 3, 7}) {
    std::vector<int64_t> seen;
    for (int64_t rank = 0; rank < world; ++rank) {
      LoaderOptions options = LoaderOptions::for_validation(10, 2);
      options.rank = rank;
      options.world_size = world;
      Loader loader(image_samples(data, small_input(), Split::val), options);
      const auto batches = take_all(loader, 0);
      EXPECT_EQ(static_cast<int64_t>(batches.size()), loader.batches());
      const auto indices = all_indices(batches);
      if (world == 1) {
        EXPECT_EQ(indices, expected);
        EXPECT_EQ(batches.back().images.size(0), 3);
      }
      seen.insert(seen.end(), indices.begin(), indices.end());
    }
    std::sort(seen.begin(), seen.end());
    EXPECT_EQ(seen, expected) << world;
  }
}

TEST(Loader, TwoTrainingProcessesTogetherSeeTheBatchOfOne) {
  const auto data = std::make_shared<Numbers>(50);
  LoaderOptions options = training(16);
  Loader whole(image_samples(data, small_input(), Split::train), options);
  options.batch_size = 8;
  options.world_size = 2;
  Loader first(image_samples(data, small_input(), Split::train), options);
  options.rank = 1;
  Loader second(image_samples(data, small_input(), Split::train), options);
  const auto one = take_all(whole, 4);
  const auto a = take_all(first, 4);
  const auto b = take_all(second, 4);
  ASSERT_TRUE(one.size() == 3 && a.size() == 3 && b.size() == 3);
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_TRUE(at::equal(one[i].images.narrow(0, 0, 8), a[i].images));
    EXPECT_TRUE(at::equal(one[i].images.narrow(0, 8, 8), b[i].images));
  }
}

TEST(Loader, ACorruptImageIsFatalWithItsNameUntilTheNextEpoch) {
  for (const int64_t workers : {0, 3}) {
    const auto data = std::make_shared<Numbers>(40);
    data->bad = {21, 22};
    LoaderOptions options = LoaderOptions::for_validation(4, workers);
    Loader loader(image_samples(data, small_input(), Split::val), options);
    loader.start_epoch(0);
    for (int i = 0; i < 5; ++i) ASSERT_TRUE(loader.next().has_value());
    for (int i = 0; i < 8; ++i) {
      EXPECT_THAT([&] { loader.next(); }, ThrowsMessage<DecodeError>(HasSubstr("number[21]: bad image")));
    }
    loader.start_epoch(1);
    EXPECT_TRUE(loader.next().has_value());
  }
}

TEST(Loader, ACorruptFileIsReportedWithItsPath) {
  const TempFolder folder;
  write_image_folder(folder.path(), 3);
  const auto path = folder.path() / "train/bee/image1.png";
  std::filesystem::resize_file(path, std::filesystem::file_size(path) / 2);
  InputOptions input;
  input.crop_train = 16;
  LoaderOptions options = training(6);
  Loader loader(image_samples(open_dataset(folder.path(), Split::train, input), input, Split::train), options);
  loader.start_epoch(0);
  EXPECT_THAT([&] { loader.next(); }, ThrowsMessage<DecodeError>(HasSubstr(path.string())));
  std::filesystem::remove(path);
  loader.start_epoch(0);
  EXPECT_THAT([&] { loader.next(); }, ThrowsMessage<DataError>(HasSubstr(path.string())));
}

TEST(Loader, SkippingReplacesACorruptTrainingImageByTheNextGoodOne) {
  const auto data = std::make_shared<Numbers>(20);
  data->bad = {6, 7, 19};
  for (const int64_t workers : {0, 3}) {
    LoaderOptions options = training(20);
    options.workers = workers;
    options.skip_corrupt = true;
    Loader loader(image_samples(data, small_input(), Split::train), options);
    const Batch batch = take_all(loader, 0).at(0);
    std::vector<int64_t> indices = batch.indices;
    for (int64_t i = 0; i < 20; ++i) EXPECT_EQ(batch.labels[i].item<int64_t>(), indices[i] % 7);
    std::sort(indices.begin(), indices.end());
    EXPECT_EQ(indices, (std::vector<int64_t>{0, 0, 1, 2, 3, 4, 5, 8, 8, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18}));
    take_all(loader, 1);
    const std::vector<std::string> skipped = loader.skipped();
    ASSERT_EQ(skipped.size(), 3u);
    EXPECT_THAT(skipped[0], HasSubstr("number[6]: bad image"));
    EXPECT_THAT(skipped[2], HasSubstr("number[19]: bad image"));
  }
}

TEST(Loader, SkippingLeavesACorruptValidationImageOut) {
  const auto data = std::make_shared<Numbers>(20);
  data->bad = {0, 6, 7, 16, 17, 18, 19};
  for (const bool channels_last : {false, true}) {
    LoaderOptions options = LoaderOptions::for_validation(4, 2);
    options.skip_corrupt = true;
    options.channels_last = channels_last;
    Loader loader(image_samples(data, small_input(), Split::val), options);
    const auto batches = take_all(loader, 0);
    EXPECT_EQ(all_indices(batches), (std::vector<int64_t>{1, 2, 3, 4, 5, 8, 9, 10, 11, 12, 13, 14, 15}));
    ASSERT_EQ(batches.size(), 4u);  // the last was corrupt as a whole
    for (const Batch& batch : batches) {
      ASSERT_EQ(batch.images.size(0), static_cast<int64_t>(batch.indices.size()));
      for (int64_t i = 0; i < batch.images.size(0); ++i) {
        EXPECT_NEAR(batch.images[i][0][0][0].item<float>() * 255, static_cast<float>(batch.indices[i]), 1e-3);
        EXPECT_EQ(batch.labels[i].item<int64_t>(), batch.indices[i] % 7);
      }
    }
    EXPECT_EQ(loader.skipped().size(), 7u);
  }
}

TEST(Loader, SkippingEveryImageIsAnError) {
  const auto data = std::make_shared<Numbers>(4);
  data->bad = {0, 1, 2, 3};
  LoaderOptions options = training(2);
  options.skip_corrupt = true;
  Loader training(image_samples(data, small_input(), Split::train), options);
  training.start_epoch(0);
  EXPECT_THAT([&] { training.next(); }, ThrowsMessage<DataError>(HasSubstr("no image of the dataset can be decoded")));
}

TEST(Loader, OtherErrorsReachTheCallerWithTheNameEvenWhenSkipping) {
  for (const int64_t workers : {0, 2}) {
    const auto data = std::make_shared<Numbers>(20);
    data->broken = 9;
    LoaderOptions options = LoaderOptions::for_validation(20, workers);
    options.skip_corrupt = true;
    Loader loader(image_samples(data, small_input(), Split::val), options);
    loader.start_epoch(0);
    EXPECT_THAT([&] { loader.next(); }, ThrowsMessage<DataError>(HasSubstr("number[9]: disk on fire")));
  }
}

TEST(Loader, MayBeStoppedAndRestartedAtAnyTime) {
  const auto data = std::make_shared<Numbers>(100);
  for (int round = 0; round < 40; ++round) {
    LoaderOptions options = training(4);
    options.workers = round % 4;
    Loader loader(image_samples(data, small_input(), Split::train), options);
    for (int epoch = 0; epoch < round % 3; ++epoch) {
      loader.start_epoch(epoch);
      for (int i = 0; i < round % 5; ++i) ASSERT_TRUE(loader.next().has_value());
    }
  }
}

TEST(Loader, PreparesNoMoreThanPrefetchBatchesAhead) {
  const auto data = std::make_shared<Numbers>(1000);
  LoaderOptions options = LoaderOptions::for_validation(10, 2);
  options.prefetch = 3;
  Loader loader(image_samples(data, small_input(), Split::val), options);
  loader.start_epoch(0);
  for (const int64_t count : {30, 40}) {
    data->wait_until_read(count);
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    EXPECT_EQ(data->read, count);
    loader.next();
  }
}

TEST(Loader, WaitingTimeIsThatOfTheData) {
  const auto data = std::make_shared<Numbers>(40);
  data->slow = true;
  Loader loader(image_samples(data, small_input(), Split::val), LoaderOptions::for_validation(10, 0));
  take_all(loader, 0);
  EXPECT_GE(loader.wait_seconds(), 40 * 0.002);
  loader.start_epoch(1);
  EXPECT_EQ(loader.wait_seconds(), 0);
  // Who comes after the workers does not wait, but for a batch's last image.
  Loader ahead(image_samples(data, small_input(), Split::val), LoaderOptions::for_validation(10, 1));
  ahead.start_epoch(0);
  data->wait_until_read(40 + 30);
  ahead.next();
  data->wait_until_read(40 + 40);
  while (ahead.next()) continue;
  EXPECT_LT(ahead.wait_seconds(), 0.1);
}

TEST(Loader, PinnedMemoryNeedsCuda) {
  const auto data = std::make_shared<Numbers>(8);
  LoaderOptions options = LoaderOptions::for_validation(8, 1);
  options.pinned = true;
  if (!at::hasCUDA()) {
    EXPECT_THAT([&] { Loader(image_samples(data, small_input(), Split::val), options); },
                ThrowsMessage<DataError>(HasSubstr("pinned: needs a CUDA device, got none")));
    return;
  }
  Loader loader(image_samples(data, small_input(), Split::val), options);
  loader.start_epoch(0);
  EXPECT_TRUE(loader.next()->images.is_pinned());
}

TEST(Loader, OptionErrorsNameTheOption) {
  const auto data = std::make_shared<Numbers>(8);
  const auto expect = [&](auto change, const char* text) {
    LoaderOptions options = training(4);
    change(options);
    EXPECT_THAT([&] { Loader(image_samples(data, small_input(), Split::train), options); },
                ThrowsMessage<DataError>(HasSubstr(text)));
  };
  expect([](auto& o) { o.batch_size = 0; }, "loader: batch_size: must be at least 1, got 0");
  expect([](auto& o) { o.batch_size = 9; }, "(8 images for 1 processes), got 9; lower it or add images");
  expect([](auto& o) { o.workers = -1; }, "loader: workers: must be at least 0, got -1");
  expect([](auto& o) { o.workers = 2000; }, "loader: workers: at most 1024, got 2000");
  expect([](auto& o) { o.prefetch = 0; }, "loader: prefetch: must be at least 1, got 0");
  expect([](auto& o) { o.world_size = 0; }, "loader: world_size: must be at least 1, got 0");
  expect([](auto& o) { o.rank = 1; }, "loader: rank: must be 0 to 0, got 1");
  EXPECT_THAT([&] { Loader(image_samples(nullptr, small_input(), Split::train), LoaderOptions{}); },
              ThrowsMessage<DataError>(HasSubstr("loader: dataset: expected a dataset, got none")));
  EXPECT_THAT([&] { Loader(image_samples(data, InputOptions{}, Split::train), LoaderOptions{}); },
              ThrowsMessage<DataError>(HasSubstr("loader: channels: the dataset was opened with 1")));
}

TEST(Loader, MisuseIsAnError) {
  Loader loader(image_samples(std::make_shared<Numbers>(8), small_input(), Split::val),
                LoaderOptions::for_validation(4, 1));
  EXPECT_THAT([&] { loader.next(); }, ThrowsMessage<DataError>(HasSubstr("call start_epoch() first")));
  EXPECT_THAT([&] { loader.start_epoch(-1); },
              ThrowsMessage<DataError>(HasSubstr("epoch: must be at least 0, got -1")));
  EXPECT_THAT([&] { loader.start_epoch(0, 3); },
              ThrowsMessage<DataError>(HasSubstr("first_batch: must be 0 to 2 (batches of an epoch), got 3")));
}

}  // namespace
}  // namespace iabn::data::test
