// The containers: PyTorch's two formats, safetensors, and what is said of files that are none of them.

#include <gmock/gmock.h>

#include "iabn/io/error.h"
#include "iabn/io/safetensors.h"
#include "tests/cpp/io_support.h"

namespace iabn::io {
namespace {

using test::error_of;
using test::le;
using test::pickle;
using test::text;
using test::tuple;
using testing::ElementsAre;
using testing::HasSubstr;

std::string floats(std::initializer_list<float> values) {
  std::string bytes;
  for (const float value : values) bytes += le(value);
  return bytes;
}

// {"w": a transposed view of six floats, "b": the last two of them}
std::string tree(int32_t numel = 6) {
  const std::string storage = test::storage("FloatStorage", "0", numel);
  return pickle("}(" + text("w") + test::tensor(storage, "K" + std::string(1, '\0'), tuple({3, 2}), tuple({1, 3})) +
                text("b") + test::tensor(storage, "K\x04", tuple({2}), tuple({1})) + "u");
}

const std::string kSix = floats({1, 2, 3, 4, 5, 6});

void expect_tree(const std::string& bytes) {
  const Checkpoint checkpoint = test::parse(bytes);
  ASSERT_NE(checkpoint.root.find("w"), nullptr);
  EXPECT_THAT(test::floats(*checkpoint.root.find("w")->as<Tensor>()), ElementsAre(1, 4, 2, 5, 3, 6));
  EXPECT_THAT(test::floats(*checkpoint.root.find("b")->as<Tensor>()), ElementsAre(5, 6));
  EXPECT_EQ(checkpoint.root.find("w")->as<Tensor>()->storage, checkpoint.root.find("b")->as<Tensor>()->storage);
  EXPECT_THAT(checkpoint.suspicious_records, ElementsAre());
}

// Every prefix of the file, and the file with each bit flipped: an error or a tree, never a crash or a read outside.
void damage(const std::string& good) {
  for (size_t length = 0; length < good.size(); ++length) EXPECT_NE(error_of(good.substr(0, length)), "") << length;
  int survivors = 0;
  for (size_t i = 0; i < good.size(); ++i) {
    for (int bit = 0; bit < 8; ++bit) {
      std::string bad = good;
      bad[i] = static_cast<char>(bad[i] ^ (1 << bit));
      survivors += error_of(bad).empty();
    }
  }
  EXPECT_LT(survivors, static_cast<int>(8 * good.size()));
}

TEST(PyTorchZip, ReadsViewsOfOneStorage) {
  expect_tree(test::pytorch_zip(tree(), {kSix}));
  expect_tree(test::zip({{"name/data/0", kSix}, {"name/data.pkl", tree()}}, true));
}

TEST(PyTorchZip, DamagedFilesAreErrors) {
  damage(test::pytorch_zip(tree(), {kSix}));
  damage(test::zip({{"name/data/0", kSix}, {"name/data.pkl", tree()}}, true));
}

TEST(PyTorchZip, SaysWhatIsMissing) {
  EXPECT_THAT(error_of(test::pytorch_zip(tree(), {})), HasSubstr("the record of storage 0 is missing"));
  EXPECT_THAT(error_of(test::pytorch_zip(tree(), {kSix.substr(1)})),
              HasSubstr("storage 0 has 23 bytes in the file, its tensors need 24"));
  EXPECT_THAT(error_of(test::zip({{"data.pkl", tree()}})), HasSubstr("without a data.pkl"));
  EXPECT_THAT(error_of(test::zip({{"a/b/data.pkl", tree()}})), HasSubstr("without a data.pkl"));
  EXPECT_THAT(error_of(test::zip({{"a/data.pkl", tree()}, {"a/constants.pkl", ""}})), HasSubstr("TorchScript"));
  EXPECT_THAT(error_of(test::zip({{"a/data.pkl", tree()}, {"a/data.pkl", tree()}})),
              HasSubstr("two records of one name"));
  EXPECT_THAT(error_of(test::zip({{"a/data.pkl", tree()}, {"a/byteorder", "big"}})),
              HasSubstr("byte order is \"big\""));
  EXPECT_THAT(error_of(test::pytorch_zip(tree() + "x", {kSix})), HasSubstr("bytes follow the pickle"));
}

TEST(PyTorchZip, SizesThatTheFileDoesNotHaveAreErrors) {
  const std::string good = test::zip({{"a/data.pkl", tree()}, {"a/data/0", kSix}}, true);
  // The 64-bit sizes of the last entry of the directory, and the directory's own numbers.
  const size_t end64 = good.find(le(uint32_t{0x06064b50}));
  const size_t extra = end64 - 24;
  for (const size_t position : {extra, extra + 8, extra + 16, end64 + 32, end64 + 40, end64 + 48}) {
    for (const uint64_t value : {~uint64_t{0}, uint64_t{1} << 40, uint64_t{1} << 63, uint64_t{good.size()}}) {
      std::string bad = good;
      bad.replace(position, 8, le(value));
      EXPECT_NE(error_of(bad), "") << position << " " << value;
    }
  }
}

TEST(PyTorchZip, RecordsThatOverlapAreAnError) {
  std::string file = test::zip({{"a/data.pkl", std::string(100, 'x')}, {"a/data/0", std::string(100, 'y')}});
  // The second entry of the directory gets the place and the length of the name of the first.
  const size_t second = file.rfind(le(uint32_t{0x02014b50}));
  file.replace(second + 42, 4, le(uint32_t{0}));
  file.replace(second + 24, 4, le(uint32_t{300}));
  file.replace(second + 20, 4, le(uint32_t{300}));
  std::string both = file;
  const size_t first = file.find(le(uint32_t{0x02014b50}));
  both.replace(first + 24, 4, le(uint32_t{300}));
  both.replace(first + 20, 4, le(uint32_t{300}));
  EXPECT_THAT(error_of(both), HasSubstr("its records overlap"));
}

TEST(PyTorchZip, AWrongChecksumIsReportedNotRefused) {
  std::string file = test::pytorch_zip(tree(), {kSix});
  file[file.find(kSix)] ^= 1;
  EXPECT_THAT(test::parse(file).suspicious_records, ElementsAre("archive/data/0"));
}

TEST(PyTorchLegacy, ReadsViewsOfOneStorage) { expect_tree(test::pytorch_legacy(tree(), {{6, kSix}})); }

TEST(PyTorchLegacy, DamagedFilesAreErrors) { damage(test::pytorch_legacy(tree(), {{6, kSix}})); }

TEST(PyTorchLegacy, SaysWhatIsWrong) {
  EXPECT_THAT(error_of(test::pytorch_legacy(tree(), {{7, kSix}})),
              HasSubstr("storage 0 has 7 elements in the file, 6 in the pickle"));
  EXPECT_THAT(error_of(test::pytorch_legacy(tree(), {{-1, kSix}})), HasSubstr("has -1 elements"));
  EXPECT_THAT(error_of(test::pytorch_legacy(tree(), {{6, kSix}, {1, "abcd"}})), HasSubstr("one of no tensor"));
  EXPECT_THAT(error_of(test::pytorch_legacy(tree(), {})), HasSubstr("storage 0 is missing"));
  EXPECT_THAT(error_of(test::pytorch_legacy(tree(), {{6, kSix}}, false)), HasSubstr("big-endian"));
  EXPECT_THAT(error_of(test::pytorch_legacy(tree(1 << 30), {{1 << 30, kSix}})),
              HasSubstr("truncated: needs 4294967296"));
}

TEST(Checkpoint, ATensorThatRepeatsOneElementEndlesslyIsAnError) {
  const std::string huge =
      test::tensor(test::storage("FloatStorage", "0", 6), "K\x01", tuple({1 << 20, 1 << 20}), tuple({0, 0}));
  EXPECT_THAT(error_of(test::pytorch_zip(pickle("}" + text("w") + huge + "s"), {kSix})),
              HasSubstr("tensor w repeats its storage"));
}

TEST(Checkpoint, ForeignFilesAreNamed) {
  EXPECT_EQ(error_of(""), "the file is empty");
  EXPECT_THAT(error_of("<html>"), HasSubstr("neither a file of torch.save nor a safetensors file"));
  EXPECT_THAT(error_of(std::string(257, 'x') + "ustar" + std::string(10, ' ')), HasSubstr("tar file"));
  EXPECT_THAT(error_of(pickle("N")), HasSubstr("a pickle without PyTorch's magic number"));
  EXPECT_THAT(error_of("PK\x03\x04"), HasSubstr("truncated"));
}

TEST(Safetensors, ReadsTensorsInTheHeadersOrder) {
  const std::string header =
      R"({"__metadata__":{"format":"pt"},"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]},)"
      R"("a":{"shape":[],"data_offsets":[0,4],"dtype":"F32"},"e":{"dtype":"I64","shape":[0,7],"data_offsets":[12,12]}}  )";
  const Checkpoint checkpoint = test::parse(test::safetensors(header, floats({1, 2, 3})));
  ASSERT_EQ(checkpoint.root.as<Dict>()->items.size(), 3u);
  EXPECT_EQ(text_of(checkpoint.root.as<Dict>()->items[0].key), "b");
  EXPECT_THAT(test::floats(*checkpoint.root.find("b")->as<Tensor>()), ElementsAre(2, 3));
  EXPECT_THAT(test::floats(*checkpoint.root.find("a")->as<Tensor>()), ElementsAre(1));
  EXPECT_EQ(checkpoint.metadata[0].second, "pt");
}

TEST(Safetensors, DamagedFilesAreErrors) {
  damage(test::safetensors(R"({"a":{"dtype":"F32","shape":[3],"data_offsets":[0,12]}})", floats({1, 2, 3})));
}

TEST(Safetensors, HostileHeadersAreErrors) {
  const auto entry = [](const std::string& dtype, const std::string& shape, const std::string& offsets) {
    return R"({"a":{"dtype":")" + dtype + R"(","shape":[)" + shape + R"(],"data_offsets":[)" + offsets + "]}}";
  };
  const std::pair<std::string, std::string> cases[] = {
      {entry("F32", "3", "0,11"), "has 11 bytes, its shape and dtype 12"},
      {entry("F16", "3", "0,12"), "has 12 bytes, its shape and dtype 6"},
      {entry("F31", "3", "0,12"), "unknown dtype F31"},
      {entry("F32", "3", "4,16"), "lies outside the file"},
      {entry("F32", "3", "12,0"), "lies outside the file"},
      {entry("F32", "4294967296,4294967296", "0,12"), "impossible shape"},
      {entry("F32", "18446744073709551615", "0,12"), "impossible shape"},
      {entry("F32", "2305843009213693952,2", "0,12"), "impossible shape"},
      {entry("F32", "-3", "0,12"), "a negative number"},
      {entry("F32", "3.5", "0,12"), "a fraction"},
      {entry("F32", "1e999", "0,12"), "not JSON"},
      {entry("F32", "[3]", "0,12"), "an array in an unexpected place, in tensor a"},
      {entry("F32", "3", "0"), "lacks dtype, shape or data_offsets"},
      {entry("F32", "3", "0,6,12"), "lacks dtype, shape or data_offsets"},
      {entry("F32", "2", "0,8"), "byte 8 of the data is of no tensor"},
      {entry("F32", "2", "4,12"), "byte 0 of the data is of no tensor"},
      {R"({"a":{"dtype":"F32","shape":[3]}})", "lacks dtype"},
      {R"({"a":{"dtype":"F32","shape":[3],"shape":[3],"data_offsets":[0,12]}})", "shape twice"},
      {R"({"a":{"dtype":"F32","shape":[3],"x":[3],"data_offsets":[0,12]}})", "unknown key x"},
      {R"({"a":{"dtype":"F32","shape":[3],"data_offsets":[0,12]},"a":{"dtype":"F32","shape":[3],"data_offsets":[0,12]}})",
       "the name a twice"},
      {R"({"a":{"dtype":"F32","shape":[3],"data_offsets":[0,12]},"b":{"dtype":"F32","shape":[3],"data_offsets":[0,12]}})",
       "two tensors overlap at byte 0"},
      {R"({"a":{"dtype":"F32","shape":{},"data_offsets":[0,12]}})", "an object in an unexpected place"},
      {R"({"__metadata__":{"a":1}})", "a number in an unexpected place"},
      {R"({"__metadata__":{"a":{}}})", "an object in an unexpected place"},
      {R"({"a":null})", "a null"},
      {R"({"a":"text"})", "a text"},
      {"{", "not JSON"},
      {"{}}", "not JSON"},
      {"{\"" + std::string(1, '\xff') + "\":1}", "not JSON"},
      {"{\"a\":" + std::string(100000, '['), "an array in an unexpected place"},
  };
  for (const auto& [header, wanted] : cases) {
    EXPECT_THAT(error_of(test::safetensors(header, floats({1, 2, 3}))), HasSubstr(wanted)) << header.substr(0, 100);
  }
  for (const uint64_t length : {uint64_t{100}, uint64_t{1} << 40, ~uint64_t{0}}) {
    EXPECT_THAT(error_of(le(length) + "{}" + kSix), HasSubstr("the header is to have " + std::to_string(length)));
  }
  EXPECT_EQ(test::parse(test::safetensors("{}", "")).root.as<Dict>()->items.size(), 0u);
}

TEST(Safetensors, WrittenFilesAreAlignedAndReadAgain) {
  SafetensorsFile file;
  file.metadata = {{"format", "pt"}};
  file.tensors.emplace_back("odd", make_tensor(DType::kUInt8, {3}, {1, 2, 3}));
  file.tensors.emplace_back("wide \"\n", make_tensor(DType::kFloat64, {1}, std::vector<uint8_t>(8, 7)));
  const std::string bytes = safetensors_bytes(file);
  const Checkpoint again = test::parse(bytes);
  EXPECT_EQ(text_of(again.root.as<Dict>()->items[0].key), "odd");
  const Tensor& wide = *again.root.find("wide \"\n")->as<Tensor>();
  EXPECT_EQ((wide.storage->bytes.data() - again.file.data()) % 8, 0);
  file.tensors.emplace_back("odd", file.tensors[0].second);
  EXPECT_THROW(safetensors_bytes(file), CheckpointError);
}

}  // namespace
}  // namespace iabn::io
