// The restricted pickle reader: what it reads, and what it refuses.

#include <gmock/gmock.h>

#include "iabn/io/error.h"
#include "iabn/io/pickle.h"
#include "tests/cpp/io_support.h"

namespace iabn::io {
namespace {

using test::global;
using test::integer;
using test::le;
using test::pickle;
using test::text;
using test::tuple;
using testing::HasSubstr;

Unpickled read(const std::string& bytes) {
  const std::vector<uint8_t> exact(bytes.begin(), bytes.end());
  ByteReader reader{ByteSpan(exact)};
  return read_pickle(reader);
}

std::string error_of(const std::string& bytes) {
  try {
    read(bytes);
  } catch (const CheckpointError& error) {
    return error.what();
  }
  return "";
}

const std::string kFloats = test::storage("FloatStorage", "0", 6);

std::string tensor(const std::string& offset, const std::string& sizes, const std::string& strides) {
  return pickle(test::tensor(kFloats, offset, sizes, strides));
}

TEST(Pickle, IntegersOfEveryLengthKeepTheirSign) {
  const std::pair<std::string, int64_t> cases[] = {
      {"K\xff", 255},
      {"M\xff\xff", 65535},
      {"J\xff\xff\xff\xff", -1},
      {std::string("\x8a\0", 2), 0},
      {"\x8a\x01\xff", -1},
      {"\x8a\x01\x7f", 127},
      {std::string("\x8a\x02\xff\0", 4), 255},
      {"\x8a\x08" + le(std::numeric_limits<int64_t>::min()), std::numeric_limits<int64_t>::min()},
      {"\x8b" + le(uint32_t{1}) + "\x80", -128},
  };
  for (const auto& [body, value] : cases) EXPECT_EQ(*read(pickle(body)).root.as<int64_t>(), value);
  EXPECT_EQ(read(pickle("\x8a\x09" + std::string(9, '\x01'))).root.as<BigInt>()->data, std::string(9, '\x01'));
  EXPECT_THAT(error_of(pickle("\x8b" + le(uint32_t{1000}) + std::string(1000, 'x'))), HasSubstr("an integer of 1000"));
}

TEST(Pickle, AHugeLengthIsTruncationAndNoAllocation) {
  for (const std::string& body :
       {"\x8b" + le(uint32_t{0x7fffffff}), "X" + le(uint32_t{0xffffffff}), "\x8d" + le(~uint64_t{0}),
        "\x8e" + le(uint64_t{1} << 62), "B" + le(uint32_t{0xfffffff0}), "T" + le(uint32_t{0xfffffff0})}) {
    EXPECT_THAT(error_of(pickle(body)), HasSubstr("truncated"));
  }
  EXPECT_THAT(error_of("\x80\x04\x95" + le(~uint64_t{0}) + "N."), HasSubstr("a frame ends beyond"));
}

TEST(Pickle, EveryTruncationIsAnError) {
  const std::string good = pickle("}(" + text("a") + test::tensor(kFloats, "K\x01", tuple({2, 2}), tuple({2, 1})) +
                                  text("b") + "](K\x01" + "e" + "u");
  EXPECT_EQ(error_of(good), "");
  for (size_t length = 0; length < good.size(); ++length) EXPECT_NE(error_of(good.substr(0, length)), "") << length;
}

TEST(Pickle, ClassesOutsideTheListAreNamedAndNeverCalled) {
  const std::pair<std::string, std::string> cases[] = {
      {"os", "system"},
      {"posix", "system"},
      {"builtins", "eval"},
      {"__builtin__", "getattr"},
      {"torch", "load"},
      {"torch.jit", "load"},
      {"torch._utils", "_rebuild_sparse_tensor"},
      {"torch", "QInt8Storage"},
      {"collections", "Counter"},
      {"torch.serialization", "_get_layout"},
      {"torch.cuda", "float32"},
      {"", ""},
      {"collections", "OrderedDict "},
  };
  for (const auto& [module, name] : cases) {
    const std::string wanted = "it asks for " + module + "." + name;
    EXPECT_THAT(error_of(pickle(global(module, name) + text("true") + "\x85R")), HasSubstr(wanted));
    EXPECT_THAT(error_of(pickle(text(module) + text(name) + "\x93" + text("true") + "\x85R")), HasSubstr(wanted));
  }
}

TEST(Pickle, AHostileNameIsNotPrintedAsItIs) {
  const std::string error = error_of(pickle(text("a\x1b[31m\x07") + text(std::string(5000, 'b')) + "\x93"));
  EXPECT_THAT(error, HasSubstr("a?[31m?.bbb"));
  EXPECT_LT(error.size(), 400u);
}

TEST(Pickle, CallsThatAreNoneAreRefused) {
  const std::string dict = global("collections", "OrderedDict");
  const std::pair<std::string, std::string> cases[] = {
      {"K\x01)R", "calls something that is not a class"},
      {dict + "K\x01R", "are not a tuple"},
      {dict + "K\x01\x85R", "is not a list of pairs"},
      {dict + "](K\x01" + "e\x85R", "is not a list of pairs"},
      {global("torch", "FloatStorage") + ")R", "calls torch.FloatStorage"},
      {global("torch", "FloatStorage"), "the class torch.FloatStorage itself"},
      {kFloats, "a bare storage"},
      {global("torch", "Size") + tuple({1}) + "R", "torch.Size is not a tuple"},
      {global("torch", "device") + ")R", "torch.device takes"},
      {global("_codecs", "encode") + text("x") + text("utf8") + "\x86R", "latin1 only"},
      {global("_codecs", "encode") + text("\xe2\x82\xac") + text("latin1") + "\x86R", "not one of latin1"},
      {"K\x01}b", "sets the state of an object"},
      {"}}b", "sets the state of an object"},
      {"](K\x01" + std::string("e}b"), "sets the state of an object"},
      {"K\x01Q", "a persistent id is not a tuple"},
      {"(" + text("module") + "tQ", "kind \"module\""},
      {"(" + text("storage") + "tQ", "has 1 parts"},
      {"K\x01K\x01" + std::string("a"), "appends to something"},
      {"K\x01K\x01K\x01s", "sets items of something"},
      {"}NK\x01s", "neither a string nor an integer"},
      {"}(K\x01u", "lacks its value"},
      {"a", "lacks its operand"},
      {"(a", "lacks its operand"},
      {"N(\x85", "lacks its operand"},
      {"e", "no mark"},
      {"NN", "something other than one value"},
      {"N(", "something other than one value"},
      {"h\x05", "memo 5"},
      {"i", "opcode 0x69"},
      {"\x8f", "opcode 0x8f"},
      {"\x97", "opcode 0x97"},
      {"X" + le(uint32_t{2}) + "\xc3(", "not UTF-8"},
  };
  for (const auto& [body, wanted] : cases) EXPECT_THAT(error_of(pickle(body)), HasSubstr(wanted)) << wanted;
  EXPECT_THAT(error_of("\x80\x06N."), HasSubstr("protocol 6"));
}

TEST(Pickle, TensorsMustLieInsideTheirStorage) {
  EXPECT_EQ(error_of(tensor("K\x01", tuple({5}), tuple({1}))), "");
  EXPECT_EQ(error_of(tensor(integer(0), tuple({0, 1000000}), tuple({1, 1}))), "");  // empty, reads nothing
  const std::string beyond = "reaches beyond its storage";
  EXPECT_THAT(error_of(tensor("K\x02", tuple({5}), tuple({1}))), HasSubstr(beyond));
  EXPECT_THAT(error_of(tensor(integer(-1), tuple({5}), tuple({1}))), HasSubstr(beyond));
  EXPECT_THAT(error_of(tensor("K\x01", tuple({-5}), tuple({1}))), HasSubstr(beyond));
  EXPECT_THAT(error_of(tensor("K\x05", tuple({2}), tuple({-1}))), HasSubstr(beyond));
  EXPECT_THAT(error_of(tensor("K\x01", tuple({2, 2}), tuple({1}))), HasSubstr(beyond));
  const int64_t huge = int64_t{1} << 62;
  EXPECT_THAT(error_of(tensor("K\x01", tuple({huge, 4}), tuple({0, 0}))), HasSubstr(beyond));
  EXPECT_THAT(error_of(tensor("K\x01", tuple({3}), tuple({huge}))), HasSubstr(beyond));
  EXPECT_THAT(error_of(tensor(integer(std::numeric_limits<int64_t>::max()), tuple({2}), tuple({1}))),
              HasSubstr(beyond));
  EXPECT_THAT(error_of(tensor("K\x01", tuple({0, huge, huge}), tuple({1, 1, 1}))), HasSubstr(beyond));
  EXPECT_EQ(error_of(tensor("K\x01", tuple({1, 2}), tuple({huge, 1}))), "");  // a stride that is never taken
  EXPECT_THAT(error_of(tensor("K\x01", tuple(std::vector<int64_t>(65, 1)), tuple(std::vector<int64_t>(65, 1)))),
              HasSubstr("65 dimensions"));
}

TEST(Pickle, StoragesHaveOneSizeEach) {
  const std::string other = test::tensor(test::storage("FloatStorage", "0", 7), integer(0), tuple({1}), tuple({1}));
  EXPECT_THAT(error_of(pickle("(" + test::tensor(kFloats, "K\x01", tuple({1}), tuple({1})) + other + "t")),
              HasSubstr("two sizes of storage 0"));
  EXPECT_THAT(error_of(pickle(test::storage("FloatStorage", "0", -1))), HasSubstr("the size of a storage is -1"));
  EXPECT_THAT(error_of(pickle(test::storage("OrderedDict", "0", 1))), HasSubstr("torch.OrderedDict"));
}

TEST(Pickle, TensorsOfAnyDeviceAreReadAlike) {
  std::string id = test::storage("FloatStorage", "0", 6);
  id.replace(id.find("ctorch\n"), 7, "ctorch.cuda\n");
  id.replace(id.find(text("cpu")), text("cpu").size(), text("cuda:3"));
  const Unpickled result = read(pickle(test::tensor(id, integer(0), tuple({6}), tuple({1}))));
  EXPECT_EQ(result.root.as<Tensor>()->dtype, DType::kFloat32);
  EXPECT_EQ(result.storages[0].bytes_claimed, 24u);
}

TEST(Pickle, ViewsOfTheOldFormatAreOffsets) {
  const auto view = [](int64_t first, int64_t count) {
    const std::string id =
        test::storage("FloatStorage", "0", 6, "(" + text("1") + integer(first) + integer(count) + "t");
    return pickle(test::tensor(id, "K\x01", tuple({2}), tuple({1})));
  };
  EXPECT_EQ(read(view(2, 3)).root.as<Tensor>()->offset, 3);
  EXPECT_THAT(error_of(view(2, 2)), HasSubstr("reaches beyond"));
  EXPECT_THAT(error_of(view(4, 3)), HasSubstr("outside its storage"));
  EXPECT_THAT(error_of(view(-1, 3)), HasSubstr("the offset of a view is -1"));
  EXPECT_THAT(error_of(view(std::numeric_limits<int64_t>::max(), 3)), HasSubstr("the offset of a view"));
}

TEST(Pickle, DeepNestingAndCirclesAreErrors) {
  const auto nested = [](int depth) {
    return pickle(std::string(static_cast<size_t>(depth), ']') + std::string(static_cast<size_t>(depth - 1), 'a'));
  };
  EXPECT_EQ(error_of(nested(kMaxPickleDepth)), "");
  for (const int depth : {kMaxPickleDepth + 2, 100000})
    EXPECT_THAT(error_of(nested(depth)), HasSubstr("nested more than"));
  EXPECT_THAT(error_of(pickle("]q\1h\1a")), HasSubstr("or contain themselves"));
  EXPECT_THAT(error_of(pickle("}q\1K\1h\1s")), HasSubstr("or contain themselves"));
}

TEST(Pickle, ValuesThatDoubleThemselvesAreErrors) {
  std::string body = "]q\1";
  for (int i = 0; i < 60; ++i) body += "h\1h\1\x86q\1";
  EXPECT_THAT(error_of(pickle(body)), HasSubstr("something other than one value"));
  std::string tuples = ")q\1";
  for (int i = 0; i < 60; ++i) tuples += "0h\1h\1\x86q\1";
  EXPECT_THAT(error_of(pickle(tuples)), HasSubstr("over and over"));
  std::string words = text(std::string(100000, 'x')) + "q\1" + "0(";
  for (int i = 0; i < 10000; ++i) words += "h\1";
  EXPECT_THAT(error_of(pickle(words + "t")), HasSubstr("over and over"));
}

TEST(Pickle, ALaterValueReplacesThatOfAnEqualKey) {
  const Unpickled result = read(pickle("}(" + text("a") + "K\1" + text("b") + "K\2" + text("a") + "K\3u"));
  const auto& items = result.root.as<Dict>()->items;
  ASSERT_EQ(items.size(), 2u);
  EXPECT_EQ(*result.root.find("a")->as<int64_t>(), 3);
}

TEST(Pickle, OrderedDictsOfPython2AreRead) {
  const std::string pairs = "](](" + text("a") + "K\1e](" + text("b") + "K\2ee";
  const Unpickled result = read(pickle(global("collections", "OrderedDict") + pairs + "\x85R"));
  EXPECT_EQ(*result.root.find("b")->as<int64_t>(), 2);
  EXPECT_TRUE(result.root.as<Dict>()->ordered);
}

TEST(Pickle, WhatIsWrittenIsReadAgainTheSame) {
  Dict inner;
  inner.ordered = true;
  inner.items.push_back({"x", Tuple{{1, int64_t{-300}, int64_t{1} << 40, 2.5, true}}});
  inner.attributes = std::make_shared<Value>(Dict());
  Dict root;
  for (Value value :
       std::initializer_list<Value>{None(), false, "t\xc3\xa4xt", Bytes{"\x80\x01"}, BigInt{std::string(12, 'z')},
                                    DType::kBFloat16, Device{"cuda", 1}, List{{1, List{}}}, inner, Tuple{{2, 3}, true},
                                    make_tensor(DType::kInt16, {3}, {1, 2, 3, 4, 5, 6})}) {
    root.items.push_back({static_cast<int64_t>(root.items.size()), std::move(value)});
  }
  const Pickled first = write_pickle(root);
  const Unpickled again = read(first.bytes);
  EXPECT_EQ(again.storages.size(), 1u);
  Unpickled::bind(const_cast<PickledStorage&>(again.storages[0]), first.storages[0]->bytes, nullptr);
  EXPECT_EQ(write_pickle(again.root).bytes, first.bytes);
  EXPECT_EQ(again.root.as<Dict>()->items.size(), 11u);
}

}  // namespace
}  // namespace iabn::io
