// JPEG and PNG decoding, and hostile files of every format.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <zlib.h>

#include <array>
#include <cstdlib>
#include <random>

#include "data_support.h"
#include "iabn/data/dataset.h"
#include "iabn/data/decode.h"
#include "iabn/data/error.h"

namespace iabn::data::test {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::StartsWith;
using testing::ThrowsMessage;

void expect_near(const Image& got, const Image& expected, int tolerance) {
  ASSERT_EQ(got.height, expected.height);
  ASSERT_EQ(got.width, expected.width);
  ASSERT_EQ(got.channels, expected.channels);
  for (int64_t i = 0; i < got.bytes(); ++i) ASSERT_NEAR(got.pixels[i], expected.pixels[i], tolerance) << "byte " << i;
}

Image from(int64_t height, int64_t width, int64_t channels, const Bytes& pixels) {
  Image image = make_image(height, width, channels);
  EXPECT_EQ(static_cast<int64_t>(pixels.size()), image.bytes());
  std::copy(pixels.begin(), pixels.end(), image.owned.get());
  return image;
}

// JPEG at quality 95 keeps a smooth image within a few units.
constexpr int kLoss = 6;

TEST(Jpeg, BaselineAndProgressiveKeepASmoothImage) {
  for (const bool progressive : {false, true}) {
    for (const int64_t channels : {1, 3}) {
      const Image image = gradient(37, 53, channels);
      const Bytes bytes = encode_jpeg(image, {.progressive = progressive});
      expect_near(decode_image(bytes, channels, "test"), image, kLoss);
    }
  }
}

TEST(Jpeg, GreyAndColourConvertEitherWay) {
  const Image grey = gradient(20, 30, 1);
  const Image rgb = decode_image(encode_jpeg(grey), 3, "test");
  ASSERT_EQ(rgb.channels, 3);
  for (int64_t i = 0; i < 600; ++i) {
    ASSERT_NEAR(rgb.pixels[3 * i], grey.pixels[i], kLoss);
    ASSERT_EQ(rgb.pixels[3 * i], rgb.pixels[3 * i + 2]);
  }
  const Image colour = gradient(20, 30, 3);
  const Image back = decode_image(encode_jpeg(colour), 1, "test");
  ASSERT_EQ(back.channels, 1);
  for (int64_t i = 0; i < 600; ++i) {
    const uint8_t* p = colour.pixels + 3 * i;
    ASSERT_NEAR(back.pixels[i], 0.299 * p[0] + 0.587 * p[1] + 0.114 * p[2], kLoss);
  }
}

TEST(Jpeg, CmykIsReadAsAdobeWritesIt) {
  // Stored inverted: cyan 200 of 255 means 55 of ink.
  const Image cmyk = from(1, 1, 4, {200, 120, 255, 180});
  const Image rgb = decode_image(encode_jpeg(cmyk, {.quality = 100}), 3, "test");
  for (int c = 0; c < 3; ++c) {
    const double light = cmyk.pixels[c] / 255.0 * cmyk.pixels[3];
    EXPECT_NEAR(rgb.pixels[c], light, 3) << c;
  }
  EXPECT_EQ(decode_image(encode_jpeg(cmyk), 1, "test").channels, 1);
}

TEST(Jpeg, ExifOrientationIsNotApplied) {
  const Image image = gradient(20, 44, 3);
  expect_near(decode_image(encode_jpeg(image, {.exif_orientation = 6}), 3, "test"), image, kLoss);
}

TEST(Jpeg, ATruncatedFileIsAnErrorWithItsName) {
  const Bytes whole = encode_jpeg(gradient(64, 64, 3));
  for (const size_t size : {whole.size() - 1, whole.size() - 2, whole.size() / 2, size_t{200}, size_t{20}, size_t{4}}) {
    const Bytes part(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(size));
    EXPECT_THAT([&] { decode_image(part, 3, "dir/x.jpg"); }, ThrowsMessage<DecodeError>(HasSubstr("dir/x.jpg: ")))
        << size;
  }
  const Bytes part(whole.begin(), whole.end() - 30);
  EXPECT_THAT([&] { decode_image(part, 3, "x"); },
              ThrowsMessage<DecodeError>(HasSubstr("truncated: the data end before the end marker")));
}

TEST(Jpeg, BytesAfterTheEndAreIgnored) {
  const Image image = gradient(16, 16, 3);
  Bytes bytes = encode_jpeg(image);
  bytes.insert(bytes.end(), 100, 0x55);
  expect_near(decode_image(bytes, 3, "test"), image, kLoss);
}

// The place of the frame header's height, and then width: two bytes each.
size_t find_frame(const Bytes& bytes) {
  for (size_t i = 0; i + 9 < bytes.size(); ++i) {
    if (bytes[i] == 0xFF && bytes[i + 1] == 0xC0) return i + 5;
  }
  ADD_FAILURE() << "no frame header";
  return 0;
}

TEST(Jpeg, DeclaredSizesAreChecked) {
  Bytes bytes = encode_jpeg(gradient(16, 16, 3));
  const size_t at = find_frame(bytes);
  for (int i = 0; i < 4; ++i) bytes[at + i] = 0xF0;
  EXPECT_THAT([&] { decode_image(bytes, 3, "huge"); },
              ThrowsMessage<DecodeError>(AllOf(HasSubstr("huge: expected 1 to 268435456 pixels, got 61680 x 61680"))));
  for (int i = 0; i < 4; ++i) bytes[at + i] = 0;
  EXPECT_THAT([&] { decode_image(bytes, 3, "empty"); }, ThrowsMessage<DecodeError>(HasSubstr("empty: ")));
}

// Repeats the file's first scan until there are more than any real file has.
TEST(Jpeg, AFileOfThousandsOfScansIsRefused) {
  const Bytes bytes = encode_jpeg(gradient(16, 16, 1), {.progressive = true});
  size_t begin = 0;
  while (!(bytes[begin] == 0xFF && bytes[begin + 1] == 0xDA)) ++begin;
  size_t end = begin + 2;
  while (!(bytes[end] == 0xFF && bytes[end + 1] != 0)) ++end;
  Bytes many(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(begin));
  for (int i = 0; i < 2000; ++i) many.insert(many.end(), bytes.begin() + begin, bytes.begin() + end);
  many.insert(many.end(), {0xFF, 0xD9});
  EXPECT_THAT([&] { decode_image(many, 1, "x"); }, ThrowsMessage<DecodeError>(HasSubstr("more than 500 scans")));
}

TEST(Png, RgbAndGreyAreExactAndConvert) {
  const Image rgb = gradient(23, 31, 3);
  expect_near(decode_image(encode_png(rgb), 3, "test"), rgb, 0);
  const Image grey = gradient(23, 31, 1);
  expect_near(decode_image(encode_png(grey), 1, "test"), grey, 0);
  expect_near(decode_image(encode_png(rgb), 1, "test"), rgb_to_grey(rgb), 0);
}

TEST(Png, EveryColourTypeAndDepth) {
  // Grey of 1, 2, 4 bits spreads over 0 to 255.
  expect_near(decode_image(encode_png_raw(1, 8, 0, 1, {0b10110001}), 1, "t"),
              from(1, 8, 1, {255, 0, 255, 255, 0, 0, 0, 255}), 0);
  expect_near(decode_image(encode_png_raw(1, 4, 0, 2, {0b00011011}), 1, "t"), from(1, 4, 1, {0, 85, 170, 255}), 0);
  expect_near(decode_image(encode_png_raw(1, 2, 0, 4, {0x3F}), 1, "t"), from(1, 2, 1, {51, 255}), 0);
  // 16 bits keep their high byte.
  expect_near(decode_image(encode_png_raw(1, 2, 0, 16, {0x12, 0xFF, 0xAB, 0x00}), 1, "t"), from(1, 2, 1, {0x12, 0xAB}),
              0);
  expect_near(decode_image(encode_png_raw(1, 1, 2, 16, {1, 200, 2, 200, 3, 200}), 3, "t"), from(1, 1, 3, {1, 2, 3}), 0);
  // Transparency is dropped.
  expect_near(decode_image(encode_png_raw(1, 2, 4, 8, {9, 0, 10, 128}), 3, "t"), from(1, 2, 3, {9, 9, 9, 10, 10, 10}),
              0);
  expect_near(decode_image(encode_png_raw(1, 1, 6, 8, {7, 8, 9, 0}), 3, "t"), from(1, 1, 3, {7, 8, 9}), 0);
  expect_near(decode_image(encode_png_raw(1, 1, 6, 16, {7, 0, 8, 0, 9, 0, 0, 0}), 3, "t"), from(1, 1, 3, {7, 8, 9}), 0);
  // A palette.
  const std::vector<std::array<uint8_t, 3>> palette = {{1, 2, 3}, {40, 50, 60}, {7, 8, 9}};
  expect_near(decode_image(encode_png_raw(1, 4, 3, 2, {0b00011000}, palette), 3, "t"),
              from(1, 4, 3, {1, 2, 3, 40, 50, 60, 7, 8, 9, 1, 2, 3}), 0);
}

TEST(Png, AnInterlacedFileIsExact) {
  const Image image = gradient(13, 11, 3);
  const Bytes rows(image.pixels, image.pixels + image.bytes());
  expect_near(decode_image(encode_png_raw(13, 11, 2, 8, rows, {}, true), 3, "test"), image, 0);
}

TEST(Png, ATruncatedFileIsAnErrorWithItsName) {
  const Bytes whole = encode_png(gradient(64, 64, 3));
  for (const size_t size : {whole.size() / 2, size_t{60}, size_t{20}, size_t{8}}) {
    const Bytes part(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(size));
    EXPECT_THAT([&] { decode_image(part, 3, "dir/x.png"); },
                ThrowsMessage<DecodeError>(StartsWith("decode_png: dir/x.png: ")))
        << size;
  }
}

// Another size in the header, with its checksum.
Bytes with_png_size(Bytes bytes, uint32_t width, uint32_t height) {
  const auto put = [&](size_t at, uint32_t value) {
    for (int i = 0; i < 4; ++i) bytes[at + i] = static_cast<uint8_t>(value >> (24 - 8 * i));
  };
  put(16, width);
  put(20, height);
  put(29, static_cast<uint32_t>(crc32(0, bytes.data() + 12, 17)));
  return bytes;
}

TEST(Png, DeclaredSizesAreCheckedBeforeMemoryIsAskedFor) {
  const Bytes bytes = encode_png(gradient(8, 8, 3));
  EXPECT_EQ(with_png_size(bytes, 8, 8), bytes);
  EXPECT_THAT([&] { decode_image(with_png_size(bytes, 1 << 20, 1 << 20), 3, "x"); },
              ThrowsMessage<DecodeError>(HasSubstr("x: expected 1 to 268435456 pixels, got 1048576 x 1048576")));
  EXPECT_THAT([&] { decode_image(with_png_size(bytes, 16384, 16384), 3, "x"); },
              ThrowsMessage<DecodeError>(HasSubstr("bytes cannot hold 16384 x 16384 pixels")));
  EXPECT_THROW(decode_image(with_png_size(bytes, 0, 8), 3, "x"), DecodeError);
}

TEST(Decode, ImagesOfTooManyPixelsAreRefused) {
  EXPECT_THROW(check_image_size(16385, 16384, "x"), DecodeError);
  EXPECT_THROW(check_image_size(0, 16384, "x"), DecodeError);
  EXPECT_THROW(check_image_size(int64_t{1} << 32, int64_t{1} << 32, "x"), DecodeError);
  EXPECT_NO_THROW(check_image_size(16384, 16384, "x"));
}

TEST(Decode, AnythingElseIsAnErrorWithItsName) {
  EXPECT_THAT([] { decode_image({}, 3, "a.jpg"); },
              ThrowsMessage<DecodeError>(HasSubstr("a.jpg: expected JPEG or PNG, got an empty file")));
  const Bytes text = {'h', 'e', 'l', 'l', 'o'};
  EXPECT_THAT([&] { decode_image(text, 3, "a.png"); },
              ThrowsMessage<DecodeError>(HasSubstr("a.png: expected JPEG or PNG, got something else")));
}

TEST(Decode, TheContentCountsNotTheFileName) {
  const TempFolder folder;
  const Image image = gradient(9, 9, 3);
  write_file(folder.path() / "train/a/x.jpg", encode_png(image));
  const auto data = open_dataset(folder.path(), Split::train, InputOptions{});
  expect_near(data->image(0), image, 0);
}

// --- Hostile files -------------------------------------------------------------------------------------------------

Bytes mutate(Bytes bytes, std::mt19937& random) {
  const auto below = [&](size_t n) { return static_cast<size_t>(random() % n); };
  switch (below(4)) {
    case 0:  // truncate
      bytes.resize(below(bytes.size()));
      break;
    case 1:  // cut a piece out
      bytes.erase(bytes.begin() + static_cast<std::ptrdiff_t>(below(bytes.size() - 8)),
                  bytes.end() - static_cast<std::ptrdiff_t>(below(8)));
      break;
    case 2:  // the header, where sizes and tables are
      for (size_t i = 0; i < 1 + below(3); ++i) bytes[below(std::min<size_t>(bytes.size(), 64))] ^= 1u << below(8);
      break;
    default:  // anywhere
      for (size_t i = 0; i < 1 + below(8); ++i) bytes[below(bytes.size())] = static_cast<uint8_t>(random());
  }
  return bytes;
}

// An image or a DecodeError; anything else fails the test, a crash the program.
void fuzz(const Bytes& valid, int rounds) {
  std::mt19937 random(7);
  int images = 0;
  int errors = 0;
  for (int i = 0; i < rounds; ++i) {
    const Bytes bytes = mutate(valid, random);
    try {
      const Image image = decode_image(bytes, 1 + 2 * (i % 2), "fuzz");
      ASSERT_GE(image.bytes(), 1);
      volatile uint8_t last = image.pixels[image.bytes() - 1];
      static_cast<void>(last);
      ++images;
    } catch (const DecodeError&) {
      ++errors;
    }
  }
  EXPECT_GT(errors, rounds / 10);
  EXPECT_EQ(images + errors, rounds);
}

TEST(Fuzz, MutatedImagesGiveAnImageOrAnError) {
  constexpr int kRounds = 1500;
  fuzz(encode_jpeg(gradient(24, 20, 3)), kRounds);
  fuzz(encode_jpeg(gradient(24, 20, 3), {.progressive = true}), kRounds);
  fuzz(encode_jpeg(gradient(24, 20, 4)), kRounds);
  fuzz(encode_png(gradient(24, 20, 3)), kRounds);
  fuzz(encode_png_raw(2, 4, 3, 2, {0b00011000, 0b01010101}, {{1, 2, 3}, {4, 5, 6}, {7, 8, 9}}), kRounds);
}

TEST(Fuzz, MutatedIdxFilesGiveADatasetOrAnError) {
  std::mt19937 random(11);
  const Bytes labels = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9};
  const Bytes image_file = encode_idx({10, 3, 2}, Bytes(60, 5));
  const Bytes label_file = encode_idx({10}, labels);
  const TempFolder folder;
  for (int i = 0; i < 600; ++i) {
    const bool zipped = i % 3 == 0;
    const std::string end = zipped ? "-ubyte.gz" : "-ubyte";
    const auto pack = [&](const Bytes& bytes) { return zipped ? gzip(bytes) : bytes; };
    std::filesystem::remove_all(folder.path() / "d");
    write_file(folder.path() / "d" / ("train-images-idx3" + end), mutate(pack(image_file), random));
    write_file(folder.path() / "d" / ("train-labels-idx1" + end),
               i % 2 ? mutate(pack(label_file), random) : pack(label_file));
    try {
      const auto data = open_dataset(folder.path() / "d", Split::train, InputOptions{});
      for (int64_t k = 0; k < data->size(); ++k) {
        ASSERT_GE(data->image(k).bytes(), 1);
        ASSERT_LT(data->label(k), static_cast<int64_t>(data->classes().size()));
      }
    } catch (const DataError&) {
    }
  }
}

}  // namespace
}  // namespace iabn::data::test
