// Options, image folders and idx files.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>

#include "data_support.h"
#include "iabn/data/dataset.h"
#include "iabn/data/error.h"

namespace iabn::data::test {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::ThrowsMessage;

namespace fs = std::filesystem;

// --- Options -------------------------------------------------------------------------------------------------------

void expect_bad(const std::function<void(InputOptions&)>& change, const std::vector<std::string>& parts) {
  InputOptions options;
  change(options);
  try {
    options.validate();
    ADD_FAILURE() << "accepted: " << parts.front();
  } catch (const DataError& e) {
    for (const std::string& part : parts) EXPECT_THAT(e.what(), HasSubstr(part));
  }
}

TEST(InputOptions, DefaultsAreValid) { EXPECT_NO_THROW(InputOptions{}.validate()); }

TEST(InputOptions, ErrorsNameTheKeyTheLimitAndTheValue) {
  expect_bad([](auto& o) { o.channels = 2; }, {"input: channels: must be 3 (RGB) or 1 (grey), got 2"});
  expect_bad([](auto& o) { o.crop_train = 0; }, {"input: crop_train: must be 1 to 16384 pixels, got 0"});
  expect_bad([](auto& o) { o.crop_val = -1; }, {"input: crop_val: ", "got -1"});
  expect_bad([](auto& o) { o.crop_val = 1 << 20; }, {"input: crop_val: ", "got 1048576"});
  expect_bad([](auto& o) { o.scale_val = 0; }, {"input: scale_val: ", "or -1 (no scaling), got 0"});
  expect_bad([](auto& o) { o.scale_train = -2; }, {"input: scale_train: ", "got -2"});
  expect_bad([](auto& o) { o.padding = -1; }, {"input: padding: ", "got -1"});
  expect_bad([](auto& o) { o.mean = {0.5}; }, {"input: mean: must have 3 numbers (channels), got 1"});
  expect_bad([](auto& o) { o.channels = 1; }, {"input: mean: must have 1 numbers (channels), got 3"});
  expect_bad([](auto& o) { o.std = {1, 0, 1}; }, {"input: std: must be above 0, got 0"});
  expect_bad([](auto& o) { o.std = {1, NAN, 1}; }, {"input: std: must be finite"});
  expect_bad(
      [](auto& o) {
        o = plain_input(1);
        o.lighting_train = true;
      },
      {"input: lighting_train: needs 3 channels, got 1"});
}

TEST(InputOptions, AugmentationNamesRoundTripAndOthersAreErrors) {
  for (const char* name : {"random_resized_crop", "pad_crop", "flip", "none"}) {
    EXPECT_EQ(to_string(augmentation_from_string(name)), name);
  }
  EXPECT_THAT([] { augmentation_from_string("crop"); },
              ThrowsMessage<DataError>(AllOf(HasSubstr("pad_crop, flip"), HasSubstr("got \"crop\""))));
}

// --- Image folders -------------------------------------------------------------------------------------------------

void expect_open_error(const fs::path& root, Split split, const std::vector<std::string>& parts) {
  try {
    open_dataset(root, split, plain_input(3));
    ADD_FAILURE() << "opened: " << parts.front();
  } catch (const DataError& e) {
    for (const std::string& part : parts) EXPECT_THAT(e.what(), HasSubstr(part));
  }
}

TEST(ImageFolder, ListsClassesAndFilesInOrderOfName) {
  const TempFolder folder;
  write_image_folder(folder.path(), 3);
  write_file(folder.path() / "train/ant/notes.txt", {'x'});
  write_file(folder.path() / "train/ant/.hidden.png", {'x'});
  write_file(folder.path() / "train/.cache/a.png", {'x'});
  write_file(folder.path() / "train/bee/A.JPEG", encode_jpeg(constant(8, 9, 3, 77)));
  const auto data = open_dataset(folder.path(), Split::train, plain_input(3));
  EXPECT_EQ(data->classes(), (std::vector<std::string>{"ant", "bee"}));
  ASSERT_EQ(data->size(), 7);
  EXPECT_EQ(data->name(3), (folder.path() / "train/bee/A.JPEG").string());
  EXPECT_EQ(data->label(2), 0);
  EXPECT_EQ(data->label(3), 1);
  const Image image = data->image(5);
  EXPECT_EQ(image.height, 40);
  EXPECT_EQ(image.width, 48);
  EXPECT_EQ(image.channels, 3);
  EXPECT_EQ(image.pixels[0], 110);
}

TEST(ImageFolder, SaysWhatItHasPassedOver) {
  const TempFolder folder;
  write_image_folder(folder.path(), 3);
  const auto note = [&] { return open_dataset(folder.path(), Split::train, plain_input(3))->note(); };
  EXPECT_EQ(note(), "");
  write_file(folder.path() / "train/ant/.hidden.bmp", {'x'});
  write_file(folder.path() / "train/.cache/a.png", {'x'});
  EXPECT_EQ(note(), "");
  write_file(folder.path() / "train/bee/deeper/a.png", {'x'});
  const std::string reason = ": only .jpg, .jpeg and .png files are read, and no folders deeper down";
  EXPECT_EQ(note(), (folder.path() / "train").string() + ": passed over bee/deeper" + reason);
  write_file(folder.path() / "train/ant/b.bmp", {'x'});
  write_file(folder.path() / "train/ant/a.bmp", {'x'});
  EXPECT_EQ(note(), (folder.path() / "train").string() + ": passed over ant/a.bmp and 2 more" + reason);
  write_file(folder.path() / "train/a.png", {'x'});
  EXPECT_EQ(note(), (folder.path() / "train").string() + ": passed over a.png and 3 more" + reason);
  fs::rename(folder.path() / "train/a.png", folder.path() / "train/z.png");
  EXPECT_EQ(note(), (folder.path() / "train").string() + ": passed over ant/a.bmp and 3 more" + reason);
}

TEST(ImageFolder, PicturesAndMasksAreNoClasses) {
  const TempFolder folder;
  write_image_folder(folder.path(), 1);
  for (const char* split : {"train", "val"}) {
    fs::rename(folder.path() / split / "ant", folder.path() / split / "images");
    fs::rename(folder.path() / split / "bee", folder.path() / split / "masks");
  }
  expect_open_error(folder.path(), Split::train, {"got images and masks", "set \"task\": \"segmentation\""});
  write_file(folder.path() / "train/cat/a.png", {'x'});
  write_file(folder.path() / "val/cat/a.png", {'x'});
  EXPECT_EQ(open_dataset(folder.path(), Split::train, plain_input(3))->classes().size(), 3u);
}

TEST(ImageFolder, OneSplitAloneIsEnoughToOpenIt) {
  const TempFolder folder;
  write_image_folder(folder.path(), 1);
  fs::remove_all(folder.path() / "train");
  EXPECT_EQ(open_dataset(folder.path(), Split::val, plain_input(1))->size(), 2);
  expect_open_error(folder.path(), Split::train,
                    {(folder.path() / "train").string(), "expected this folder, got none"});
}

TEST(ImageFolder, ErrorsNameTheFolder) {
  const TempFolder folder;
  const fs::path root = folder.path();
  expect_open_error(root / "nowhere", Split::train, {(root / "nowhere").string(), "expected a folder, got none"});
  expect_open_error(root, Split::train, {root.string(), "got neither"});
  fs::create_directories(root / "train");
  expect_open_error(root, Split::train, {(root / "train").string(), "expected one folder per class, got none"});
  fs::create_directories(root / "train/ant");
  expect_open_error(root, Split::train,
                    {(root / "train/ant").string(), "expected .jpg, .jpeg or .png files, got none; add"});
  write_file(root / "train/ant/a.webp", {'x'});
  expect_open_error(root, Split::train, {"got none among 1 (a.webp); add images"});
}

TEST(ImageFolder, DifferentClassesInTrainAndValAreAnError) {
  const TempFolder folder;
  write_image_folder(folder.path(), 1);
  fs::create_directories(folder.path() / "val/cat");
  expect_open_error(folder.path(), Split::train, {(folder.path() / "train").string(), "same classes", "\"cat\""});
  fs::remove_all(folder.path() / "val/cat");
  fs::remove_all(folder.path() / "val/ant");
  expect_open_error(folder.path(), Split::val, {(folder.path() / "val").string(), "same classes", "\"ant\""});
}

// --- idx files -----------------------------------------------------------------------------------------------------

TEST(Idx, PlainAndZippedFilesGiveTheSameImages) {
  for (const bool zipped : {false, true}) {
    const TempFolder folder;
    write_idx_folder(folder.path(), 23, zipped);
    const auto data = open_dataset(folder.path(), Split::val, plain_input(1));
    ASSERT_EQ(data->size(), 23);
    EXPECT_EQ(data->classes().size(), 10u);
    const Image image = data->image(17);
    EXPECT_EQ(image.height, 6);
    EXPECT_EQ(image.width, 5);
    EXPECT_TRUE(std::all_of(image.pixels, image.pixels + 30, [](uint8_t v) { return v == 17; }));
    EXPECT_EQ(data->label(17), 7);
    EXPECT_THAT(data->name(17), HasSubstr("t10k-images-idx3-ubyte"));
    EXPECT_THROW(data->image(23), DataError);
  }
}

TEST(Idx, GreyBecomesColourWhereThreeChannelsAreAsked) {
  const TempFolder folder;
  write_idx_folder(folder.path(), 12, false);
  const auto data = open_dataset(folder.path(), Split::train, plain_input(3));
  const Image image = data->image(11);
  EXPECT_EQ(data->channels(), 3);
  EXPECT_EQ(image.channels, 3);
  EXPECT_TRUE(std::all_of(image.pixels, image.pixels + 90, [](uint8_t v) { return v == 11; }));
}

TEST(Idx, ErrorsNameTheFileAndTheNumbers) {
  const auto check = [](const char* file, const Bytes& bytes, const std::vector<std::string>& parts, Split split) {
    const TempFolder folder;
    write_idx_folder(folder.path(), 20, false);
    if (bytes.empty()) {
      fs::remove(folder.path() / file);
    } else {
      write_file(folder.path() / file, bytes);
    }
    std::vector<std::string> all = parts;
    all.push_back((folder.path() / file).string());
    expect_open_error(folder.path(), split, all);
  };
  const char* images = "train-images-idx3-ubyte";
  const char* labels = "train-labels-idx1-ubyte";
  check(images, {}, {"expected this file, got none"}, Split::train);
  check(labels, {}, {"expected this file, got none"}, Split::train);
  check(images, {0, 0, 8}, {"truncated within its header"}, Split::train);
  check(images, encode_idx({20, 6, 5}, Bytes(599)), {"truncated: expected 600 bytes", "got 599"}, Split::train);
  check(images, encode_idx({20, 6, 5}, Bytes(601)), {"expected 600 bytes", "got more"}, Split::train);
  check(images, encode_idx({20, 30}, Bytes(600)), {"magic number 2051", "got 2050"}, Split::train);
  check(labels, encode_idx({20, 6, 5}, Bytes(600)), {"magic number 2049", "got 2051"}, Split::train);
  check(images, encode_idx({20, 0, 5}, {}), {"sizes of at least 1, got 0"}, Split::train);
  check(images, encode_idx({20, 1 << 20, 1 << 20}, Bytes(600)), {"too large"}, Split::train);
  check(images, encode_idx({20, 1 << 14, 1 << 14}, Bytes(600)), {"truncated", "got 600"}, Split::train);
  check(labels, encode_idx({19}, Bytes(19)), {"expected 20 labels", "got 19"}, Split::train);
  Bytes high(20, 0);
  high[3] = 10;
  check("t10k-labels-idx1-ubyte", encode_idx({20}, high), {"expected labels of 0 to 9", "got 10"}, Split::val);
}

TEST(Idx, ATruncatedZippedFileIsAnError) {
  const TempFolder folder;
  write_idx_folder(folder.path(), 200, true);
  const fs::path path = folder.path() / "train-images-idx3-ubyte.gz";
  fs::resize_file(path, fs::file_size(path) - 20);
  expect_open_error(folder.path(), Split::train, {path.string()});
}

}  // namespace
}  // namespace iabn::data::test
