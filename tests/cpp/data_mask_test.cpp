// Masks and the folder of pictures with masks: what is read, and every complaint.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "data_support.h"
#include "iabn/data/decode.h"
#include "iabn/data/error.h"
#include "iabn/data/segmentation_folder.h"

namespace iabn::data::test {
namespace {

using testing::AllOf;
using testing::EndsWith;
using testing::HasSubstr;
using testing::StartsWith;
using testing::ThrowsMessage;

constexpr int kGrey = 0, kRgb = 2, kIndexed = 3, kGreyAlpha = 4, kRgbAlpha = 6;  // of the PNG standard

std::vector<int> numbers(const Image& mask) { return {mask.pixels, mask.pixels + mask.bytes()}; }

Bytes mask_png(int64_t height, int64_t width, uint8_t value) { return encode_png(constant(height, width, 1, value)); }

TEST(Mask, IsTheNumbersOfTheFileWhateverItsKindAndDepth) {
  constexpr uint32_t kHeight = 9, kWidth = 13;  // no row fills its last byte
  std::mt19937 random(3);
  for (const int type : {kGrey, kIndexed}) {
    for (const int bits : {1, 2, 4, 8}) {
      for (const bool interlaced : {false, true}) {
        const uint32_t row_bytes = (kWidth * bits + 7) / 8;
        Bytes rows(row_bytes * kHeight);
        std::vector<int> expected;
        for (uint32_t y = 0; y < kHeight; ++y) {
          for (uint32_t x = 0; x < kWidth; ++x) {
            const auto value = static_cast<int>(random() % (1u << bits));
            expected.push_back(value);
            const uint32_t bit = x * bits;
            rows[y * row_bytes + bit / 8] |= static_cast<uint8_t>(value << (8 - bits - static_cast<int>(bit % 8)));
          }
        }
        // Colours that have nothing to do with the index.
        std::vector<std::array<uint8_t, 3>> palette;
        for (int i = 0; type == kIndexed && i < 1 << bits; ++i) palette.push_back({uint8_t(200 - i / 2), 7, 99});
        const Image mask = decode_mask(encode_png_raw(kHeight, kWidth, type, bits, rows, palette, interlaced), "m");
        EXPECT_EQ(mask.height, kHeight);
        EXPECT_EQ(mask.width, kWidth);
        EXPECT_EQ(mask.channels, 1);
        EXPECT_EQ(numbers(mask), expected) << type << ' ' << bits << ' ' << interlaced;
      }
    }
  }
}

TEST(Mask, ColoursAlphaAnd16BitsAreRefusedWithWhatToDo) {
  const auto expect = [](const Bytes& png, const char* got) {
    EXPECT_THAT([&] { decode_mask(png, "dir/m.png"); },
                ThrowsMessage<DecodeError>(
                    AllOf(StartsWith("decode_mask: dir/m.png: expected an indexed or grey PNG of at most 8 bits"),
                          HasSubstr(std::string("got ") + got), EndsWith("write the number of each pixel's class"))));
  };
  expect(encode_png_raw(1, 1, kRgb, 8, {1, 1, 1}), "RGB of 8 bits");
  expect(encode_png_raw(1, 1, kRgb, 16, {0, 1, 0, 1, 0, 1}), "RGB of 16 bits");
  expect(encode_png_raw(1, 1, kRgbAlpha, 8, {1, 1, 1, 255}), "RGB with alpha of 8 bits");
  expect(encode_png_raw(1, 1, kGreyAlpha, 8, {1, 255}), "grey with alpha of 8 bits");
  expect(encode_png_raw(1, 1, kGrey, 16, {0, 1}), "grey of 16 bits");
}

TEST(Mask, DamagedAndHostileFilesAreErrorsWithTheirName) {
  const auto expect = [](const Bytes& bytes, const char* text) {
    EXPECT_THAT([&] { decode_mask(bytes, "dir/m.png"); },
                ThrowsMessage<DecodeError>(AllOf(HasSubstr("dir/m.png: "), HasSubstr(text))));
  };
  expect({}, "not a readable PNG");
  expect(encode_jpeg(gradient(8, 8, 1)), "not a readable PNG");
  const Bytes whole = encode_png(noise(64, 64, 1, 1));
  expect(Bytes(whole.begin(), whole.begin() + 600), "cannot be decoded");
  const auto declared = [&](size_t byte, uint8_t value) {  // of width (from 16 on) and height (from 20 on)
    Bytes bytes = whole;
    bytes[byte] = bytes[byte + 4] = value;
    return bytes;
  };
  expect(declared(16, 0x10), "expected 1 to 268435456 pixels");
  expect(declared(18, 0x3F), "truncated: ");
  std::mt19937 random(5);
  const Bytes small = encode_png_raw(5, 5, kGrey, 2, Bytes(10, 0b00011011));
  for (int i = 0; i < 2000; ++i) {
    Bytes bytes = small;
    for (int change = 0; change < 3; ++change) bytes[random() % bytes.size()] = static_cast<uint8_t>(random());
    try {
      decode_mask(bytes, "m");
    } catch (const DecodeError&) {
    }
  }
}

class Segmentation : public testing::Test {
 protected:
  void add_image(const std::string& name, const Bytes& bytes) const { write_file(split() / "images" / name, bytes); }
  void add_mask(const std::string& name, const Bytes& bytes) const { write_file(split() / "masks" / name, bytes); }
  std::filesystem::path split() const { return folder_.path() / "train"; }
  SegmentationFolder open(int64_t classes = 11, int64_t ignore_label = 255) const {
    return {folder_.path(), "train", classes, ignore_label};
  }
  void expect_error(const std::string& text) const {
    EXPECT_THAT([&] { open(); }, ThrowsMessage<DataError>(AllOf(StartsWith("segmentation_folder: "), HasSubstr(text))));
  }

 private:
  TempFolder folder_;
};

TEST_F(Segmentation, PairsAreInOrderOfNameAndOtherFilesPassedOver) {
  add_image("b.jpg", encode_jpeg(constant(8, 9, 3, 20)));
  add_image("a.png", encode_png(constant(8, 9, 3, 10)));
  add_image("c.JPEG", encode_jpeg(constant(8, 9, 3, 30)));
  add_image(".hidden.jpg", {});
  add_image("notes.txt", {});
  const char* names[] = {"a.png", "b.jpg", "c.JPEG"};
  for (int i = 0; i < 3; ++i) {
    add_mask(std::string(1, names[i][0]) + ".png", mask_png(8, 9, static_cast<uint8_t>(i)));
  }
  add_mask("a.jpg", {});  // a picture of the mask, for people
  add_mask("without-image.png", {});
  const SegmentationFolder folder = open();
  ASSERT_EQ(folder.size(), 3);
  for (int i = 0; i < 3; ++i) {
    EXPECT_THAT(folder.name(i), EndsWith(std::string("train/images/") + names[i]));
    const Image image = folder.image(i);
    EXPECT_EQ(image.channels, 3);
    EXPECT_EQ(image.pixels[0], 10 + 10 * i);
    EXPECT_EQ(numbers(folder.mask(i, 8, 9)), std::vector<int>(72, i));
  }
}

TEST_F(Segmentation, PicturesOfEveryKindBecomeRgb) {
  const std::vector<std::pair<std::string, Bytes>> files = {
      {"16-bit.png", encode_png_raw(1, 1, kRgb, 16, {90, 1, 90, 2, 90, 3})},
      {"16-bit-grey.png", encode_png_raw(1, 1, kGrey, 16, {90, 1})},
      {"grey.png", encode_png(constant(1, 1, 1, 90))},
      {"grey-alpha.png", encode_png_raw(1, 1, kGreyAlpha, 8, {90, 3})},
      {"palette.png", encode_png_raw(1, 1, kIndexed, 1, {0x80}, {{1, 2, 3}, {90, 90, 90}})},
      {"grey-jpeg.jpg", encode_jpeg(constant(1, 1, 1, 90))},
      {"cmyk.jpg", encode_jpeg(constant(1, 1, 4, 152))},  // 152 / 255 of white, by as much black: 90
  };
  for (const auto& [name, bytes] : files) {
    add_image(name, bytes);
    add_mask(name.substr(0, name.size() - 4) + ".png", mask_png(1, 1, 3));
  }
  const SegmentationFolder folder = open();
  ASSERT_EQ(folder.size(), 7);
  for (int i = 0; i < 7; ++i) {
    const Image image = folder.image(i);
    ASSERT_EQ(image.bytes(), 3);
    for (int c = 0; c < 3; ++c) EXPECT_NEAR(image.pixels[c], 90, 1) << folder.name(i);
  }
}

TEST_F(Segmentation, MissingFoldersAndFilesAreNamed) {
  expect_error("train: expected this folder, got none; it holds images/ and masks/");
  std::filesystem::create_directories(split());
  expect_error("train/images: expected this folder, got none");
  std::filesystem::create_directories(split() / "images");
  expect_error("train/masks: expected this folder, got none");
  std::filesystem::create_directories(split() / "masks");
  expect_error("train/images: expected .jpg, .jpeg or .png files, got none");
  for (const char* name : {"a.jpg", "b.jpg", "c.jpg", "d.png", "e.png"}) add_image(name, {});
  expect_error(
      "train/masks: expected a mask for each of the 5 images, got none for any (a.png, b.png, c.png, ...); masks are "
      "PNG files named as their image");
  add_mask("a.png", {});
  add_mask("c.png", {});
  add_mask("d.jpg", {});
  expect_error("got none for 3 (b.png, d.png, e.png)");
}

TEST_F(Segmentation, TwoFilesOfOneNameAreAnError) {
  add_mask("a.png", {});
  add_image("a.jpg", {});
  add_image("a.png", {});
  expect_error("train/images: expected one file of each name, got a.jpg and a.png; rename or remove one");
  std::filesystem::remove(split() / "images" / "a.png");
  EXPECT_EQ(open().size(), 1);
  add_mask("a.PNG", {});
  expect_error("train/masks: expected one file of each name, got a.PNG and a.png");
}

TEST_F(Segmentation, NumbersOfClassesThatAMaskCannotHoldAreRefused) {
  for (const int64_t classes : {0, 257}) {
    EXPECT_THAT(
        [&] { open(classes); },
        ThrowsMessage<DataError>("segmentation_folder: classes: must be 1 to 256, got " + std::to_string(classes)));
  }
}

TEST_F(Segmentation, BadPicturesAndMasksAreErrorsWithTheirPath) {
  add_image("empty.png", {});
  add_mask("empty.png", {});
  add_image("gone.png", {});
  add_mask("gone.png", {});
  Bytes half = encode_png(noise(32, 32, 1, 1));
  half.resize(half.size() / 2);
  add_image("half.png", half);
  add_mask("half.png", half);
  const SegmentationFolder folder = open();
  std::filesystem::remove(split() / "images" / "gone.png");
  std::filesystem::remove(split() / "masks" / "gone.png");
  for (int i = 0; i < 3; ++i) {
    EXPECT_THAT([&] { folder.image(i); }, ThrowsMessage<DataError>(HasSubstr(folder.name(i))));
    const auto mask = split() / "masks" / std::filesystem::path(folder.name(i)).filename();
    EXPECT_THAT([&] { folder.mask(i, 32, 32); }, ThrowsMessage<DataError>(HasSubstr(mask.string())));
  }
}

TEST_F(Segmentation, AMaskOfAnotherSizeIsAnErrorThatNamesBothFiles) {
  add_image("a.jpg", encode_jpeg(gradient(8, 9, 3)));
  add_mask("a.png", mask_png(9, 8, 0));
  const SegmentationFolder folder = open();
  EXPECT_THAT([&] { folder.mask(0, 8, 9); },
              ThrowsMessage<DecodeError>(
                  AllOf(HasSubstr((split() / "masks" / "a.png").string() + ": expected the size of its image " +
                                  (split() / "images" / "a.jpg").string()),
                        EndsWith("8 x 9 (height x width), got 9 x 8"))));
}

TEST_F(Segmentation, AMaskValueOutsideTheClassesIsAnErrorThatGivesItsPlace) {
  Image mask = constant(8, 9, 1, 10);
  mask.owned[0] = 255;
  mask.owned[5 * 9 + 7] = 11;
  add_image("a.jpg", {});
  add_mask("a.png", encode_png(mask));
  EXPECT_THAT([&] { open().mask(0, 8, 9); },
              ThrowsMessage<DecodeError>(
                  AllOf(HasSubstr("masks/a.png: expected 0 to 10 (11 classes) or ignore_label 255, got 11 at x 7, y 5"),
                        EndsWith("set ignore_label, or name all classes"))));
  EXPECT_EQ(open(12).mask(0, 8, 9).pixels[52], 11);
  EXPECT_THAT([&] { open(12, 11).mask(0, 8, 9); }, ThrowsMessage<DecodeError>(HasSubstr("got 255 at x 0, y 0")));
  EXPECT_THAT([&] { open(11, -1).mask(0, 8, 9); }, ThrowsMessage<DecodeError>(HasSubstr("got 255 at x 0, y 0")));
  EXPECT_EQ(open(256, -1).mask(0, 8, 9).pixels[0], 255);
}

}  // namespace
}  // namespace iabn::data::test
