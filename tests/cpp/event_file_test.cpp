// TensorBoard's event files, byte by byte; tests/python/test_event_file.py reads one with TensorBoard itself.

#include <algorithm>
#include <cmath>
#include <csignal>
#include <cstring>
#include <fstream>
#include <limits>
#include <numeric>
#include <random>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "iabn/io/event_file.h"
#include "iabn/io/tensorboard.h"

namespace iabn::io::test {
namespace {

namespace fs = std::filesystem;
using testing::AllOf;
using testing::HasSubstr;
using testing::ThrowsMessage;

class EventFile : public testing::Test {
 protected:
  EventFile() : folder_(fs::path(testing::TempDir()) / ("iabn_events_" + std::to_string(::getpid()))) {
    fs::remove_all(folder_);
  }
  ~EventFile() override { fs::remove_all(folder_); }

  const fs::path folder_;
};

std::string bytes_of(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

uint64_t little_endian(std::string_view bytes) {
  uint64_t value = 0;
  for (size_t i = bytes.size(); i-- > 0;) value = value << 8 | static_cast<uint8_t>(bytes[i]);
  return value;
}

// The events of a file; fails where its last record is not whole or a length is wrong.
std::vector<std::string> events_of(const fs::path& path) {
  const std::string bytes = bytes_of(path);
  std::vector<std::string> events;
  size_t at = 0;
  while (at < bytes.size()) {
    const auto length = static_cast<size_t>(little_endian(std::string_view(bytes).substr(at, 8)));
    if (bytes.size() - at < length + 16) {
      ADD_FAILURE() << "a torn record at " << at;
      break;
    }
    events.push_back(bytes.substr(at + 12, length));
    EXPECT_EQ(record(events.back()), bytes.substr(at, length + 16));
    at += length + 16;
  }
  return events;
}

std::vector<uint8_t> png_header(uint8_t color_type) {
  return {0x89, 'P', 'N', 'G', '\r', '\n', 0x1A, '\n', 0, 0, 0, 13, 'I',
          'H',  'D', 'R', 0,   0,    1,    2,    0,    0, 0, 3, 8,  color_type};
}

TEST(Crc32c, AgreesWithThePublishedVectors) {
  EXPECT_EQ(crc32c(""), 0u);
  EXPECT_EQ(crc32c("123456789"), 0xE3069283u);
  // RFC 3720, appendix B.4.
  EXPECT_EQ(crc32c(std::string(32, '\0')), 0x8A9136AAu);
  EXPECT_EQ(crc32c(std::string(32, '\xff')), 0x62A8AB43u);
  std::string rising(32, '\0');
  std::iota(rising.begin(), rising.end(), '\0');
  EXPECT_EQ(crc32c(rising), 0x46DD794Eu);
}

TEST(Record, IsLengthChecksumDataChecksum) {
  const std::string data = "123456789";
  const std::string got = record(data);
  ASSERT_EQ(got.size(), data.size() + 16);
  EXPECT_EQ(little_endian(std::string_view(got).substr(0, 8)), 9u);
  EXPECT_EQ(got.substr(12, 9), data);
  const auto masked = [](uint32_t crc) { return (crc >> 15 | crc << 17) + 0xa282ead8u; };
  EXPECT_EQ(little_endian(std::string_view(got).substr(8, 4)), masked(crc32c(got.substr(0, 8))));
  EXPECT_EQ(little_endian(std::string_view(got).substr(21, 4)), masked(0xE3069283u));
}

TEST(Event, AScalarIsEncodedAsProtobufDoes) {
  // wall_time 1 (field 1, double), step 300 (2, varint), summary (5) of one value (1): tag (1), simple_value (2).
  const std::string expected("\x09\0\0\0\0\0\0\xF0\x3F\x10\xAC\x02\x2A\x0A\x0A\x08\x0A\x01t\x15\0\0\xC0\x3F", 24);
  EXPECT_EQ(scalar_event(1.0, 300, "t", 1.5f), expected);
}

TEST(Event, ANegativeStepTakesTenBytes) {
  const std::string got = scalar_event(0, -1, "t", 0);
  EXPECT_EQ(got.substr(9, 11), std::string("\x10\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x01"));
}

TEST(Histogram, EveryValueIsCountedInTheBucketThatHoldsIt) {
  std::mt19937 random(3);
  std::normal_distribution<float> normal(0.5f, 2.0f);
  std::vector<float> values(10000);
  for (float& value : values) value = normal(random);
  values.insert(values.end(), {0.0f, 1e-30f, -1e-30f, 3e38f, -3e38f});
  const Histogram got = histogram_of(values);
  EXPECT_NO_THROW(check_histogram(got, "test"));
  EXPECT_EQ(got.min, -3e38f);
  EXPECT_EQ(got.max, 3e38f);
  EXPECT_EQ(got.count, static_cast<double>(values.size()));
  double lower = -std::numeric_limits<double>::infinity();
  for (size_t i = 0; i < got.limits.size(); ++i) {
    const auto in =
        std::count_if(values.begin(), values.end(), [&](float v) { return v >= lower && v < got.limits[i]; });
    EXPECT_EQ(got.counts[i], static_cast<double>(in)) << "below " << got.limits[i];
    lower = got.limits[i];
  }
}

TEST(Histogram, SumsAndBucketsAreThoseOfTensorBoard) {
  const Histogram got = histogram_of(std::vector<float>{1.0f, 2.0f, -4.0f});
  EXPECT_EQ(got.min, -4);
  EXPECT_EQ(got.max, 2);
  EXPECT_EQ(got.count, 3);
  EXPECT_EQ(got.sum, -1);
  EXPECT_EQ(got.sum_squares, 21);
  // Neighbouring bounds around a value differ by a factor of 1.1; runs of empty buckets are one.
  for (size_t i = 1; i < got.limits.size(); ++i) {
    if (got.counts[i] == 0) {
      EXPECT_NE(got.counts[i - 1], 0);
    } else {
      EXPECT_NEAR(std::max(got.limits[i] / got.limits[i - 1], got.limits[i - 1] / got.limits[i]), 1.1, 1e-12);
    }
  }
  EXPECT_EQ(got.limits.size(), 7u);
}

TEST(Histogram, LeavesOutWhatIsNotFinite) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  const Histogram got = histogram_of(std::vector<float>{std::nanf(""), kInfinity, -kInfinity, 3.0f});
  EXPECT_EQ(got.count, 1);
  EXPECT_EQ(got.min, 3);
  EXPECT_EQ(got.max, 3);
  const Histogram empty = histogram_of(std::vector<float>{std::nanf("")});
  EXPECT_EQ(empty.count, 0);
  EXPECT_EQ(empty.limits.size(), 1u);
}

TEST(Histogram, CountsThatDoNotFitTheLimitsAreAnError) {
  const auto text_of = [](const Histogram& histogram, const char* text) {
    EXPECT_THAT([&] { check_histogram(histogram, "add_histogram: w"); },
                ThrowsMessage<std::invalid_argument>(HasSubstr(text)));
  };
  text_of({}, "add_histogram: w: expected as many counts as limits, at least one, got 0 and 0");
  text_of({.limits = {1, 2}, .counts = {1}}, "got 1 and 2");
  text_of({.limits = {1, 1}, .counts = {1, 1}}, "expected increasing limits, got 1.0");
}

TEST(PngHeader, GivesSizeAndColourSpace) {
  for (const auto& [type, space] : {std::pair<uint8_t, int64_t>{0, 1}, {2, 3}, {3, 3}, {4, 2}, {6, 4}}) {
    const PngHeader got = read_png_header(png_header(type), "test");
    EXPECT_EQ(got.width, 258);
    EXPECT_EQ(got.height, 3);
    EXPECT_EQ(got.color_space, space);
  }
  for (const uint8_t type : {1, 5, 7, 255}) EXPECT_THROW(read_png_header(png_header(type), "x"), std::invalid_argument);
  EXPECT_THAT([] { read_png_header({}, "add_image: y"); },
              ThrowsMessage<std::invalid_argument>(HasSubstr("add_image: y: expected the bytes of a PNG file, got 0")));
}

TEST_F(EventFile, HoldsTheVersionThenWhatWasAddedWithoutAFlush) {
  EventWriter writer(folder_ / "a/b");
  writer.start_at(7, 1.0);
  writer.add_scalar("train/loss", 7, 0.5, 2.0);
  writer.add_histogram("w", 8, std::vector<float>{1.0f}, 3.0);
  writer.add_image("i", 9, png_header(2), 4.0);
  const auto events = events_of(writer.path());
  ASSERT_EQ(events.size(), 5u);
  EXPECT_THAT(events[0], HasSubstr("brain.Event:2"));
  EXPECT_EQ(events[1], session_start_event(1.0, 7));
  EXPECT_EQ(events[2], scalar_event(2.0, 7, "train/loss", 0.5f));
  EXPECT_EQ(events[3], histogram_event(3.0, 8, "w", histogram_of(std::vector<float>{1.0f})));
  EXPECT_EQ(events[4], image_event(4.0, 9, "i", {3, 258, 3}, png_header(2)));
  EXPECT_NO_THROW(writer.flush());
}

TEST_F(EventFile, WritersOfOneFolderNeverShareAFile) {
  EventWriter first(folder_), second(folder_);
  first.add_scalar("x", 0, 1);
  EXPECT_NE(first.path(), second.path());
  EXPECT_THAT(first.path().filename().string(), testing::StartsWith("events.out.tfevents."));
  EXPECT_EQ(events_of(first.path()).size(), 2u);
  EXPECT_EQ(events_of(second.path()).size(), 1u);
}

TEST_F(EventFile, AFolderThatCannotBeWrittenIsNamed) {
  fs::create_directories(folder_);
  std::ofstream(folder_ / "file") << "x";
  EXPECT_THAT([&] { EventWriter writer(folder_ / "file/below"); },
              ThrowsMessage<EventFileError>(AllOf(HasSubstr("file/below"), HasSubstr("cannot be created"))));
  if (::getuid() == 0) return;  // root may write anywhere
  fs::permissions(folder_, fs::perms::owner_read | fs::perms::owner_exec);
  EXPECT_THAT([&] { EventWriter writer(folder_); }, ThrowsMessage<EventFileError>(HasSubstr("Permission denied")));
  fs::permissions(folder_, fs::perms::owner_all);
}

TEST_F(EventFile, AFullDiskIsAnErrorAndLeavesWholeRecords) {
  // A limit on the size of files makes write() take a part, then fail: as on a full disk.
  EventWriter writer(folder_);
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  const auto old = std::signal(SIGXFSZ, SIG_IGN);
  const rlimit small{200, before.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
  int added = 0;
  std::string text;
  try {
    for (; added < 100; ++added) writer.add_scalar("loss", added, 1);
  } catch (const EventFileError& error) {
    text = error.what();
  }
  ::setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, old);
  EXPECT_THAT(text, AllOf(HasSubstr(writer.path().string()), HasSubstr("cannot be written: File too large")));
  EXPECT_GT(added, 0);
  EXPECT_EQ(events_of(writer.path()).size(), static_cast<size_t>(added) + 1);
  writer.add_scalar("loss", added, 2);  // there is room again
  EXPECT_EQ(events_of(writer.path()).size(), static_cast<size_t>(added) + 2);
}

TEST_F(EventFile, AKilledProcessLosesNothingThatWasAdded) {
  const pid_t child = ::fork();
  if (child == 0) {
    EventWriter writer(folder_);
    for (int step = 0; step < 50; ++step) writer.add_scalar("x", step, step);
    std::raise(SIGKILL);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFSIGNALED(status));
  EXPECT_EQ(events_of(fs::directory_iterator(folder_)->path()).size(), 51u);
}

}  // namespace
}  // namespace iabn::io::test
