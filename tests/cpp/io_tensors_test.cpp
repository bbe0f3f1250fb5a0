// LibTorch's tensors through a checkpoint in memory.

#include <gmock/gmock.h>
#include <torch/torch.h>

#include "iabn/io/checkpoint.h"
#include "iabn/io/error.h"
#include "iabn/io/pytorch.h"
#include "iabn/io/tensors.h"

namespace iabn::io {
namespace {

Checkpoint through_file(const Value& root) {
  const auto bytes = std::make_shared<const std::string>(pytorch_bytes(root));
  return parse_checkpoint(ByteSpan(reinterpret_cast<const uint8_t*>(bytes->data()), bytes->size()), bytes);
}

TEST(IoTensors, EveryTypeAndLayoutComesBackTheSame) {
  torch::manual_seed(0);
  for (const auto type :
       {torch::kDouble, torch::kFloat, torch::kHalf, torch::kBFloat16, torch::kLong, torch::kInt, torch::kShort,
        torch::kChar, torch::kByte, torch::kBool, torch::kComplexFloat, torch::kComplexDouble}) {
    const torch::Tensor base = (torch::randn({2, 3, 4, 5}) * 3).to(type);
    for (const torch::Tensor& tensor : {base, base.permute({0, 2, 3, 1}), base.slice(1, 1), base[1][2][3][4],
                                        base.to(torch::MemoryFormat::ChannelsLast), torch::empty({0, 3}, type)}) {
      Dict root;
      root.set("x", from_at(tensor));
      const Checkpoint checkpoint = through_file(root);
      const torch::Tensor again = to_at(*checkpoint.root.find("x")->as<Tensor>());
      EXPECT_TRUE(torch::equal(again, tensor)) << type << tensor.sizes();
      EXPECT_EQ(again.scalar_type(), type);
      EXPECT_TRUE(tensor.numel() == 0 || again.strides() == tensor.strides());
    }
  }
}

TEST(IoTensors, TensorsOutliveTheCheckpointTheyComeFrom) {
  torch::Tensor tensor;
  {
    Dict root;
    root.set("x", from_at(torch::arange(5)));
    tensor = to_at(*through_file(root).root.find("x")->as<Tensor>());
  }
  EXPECT_EQ(tensor[4].item<int64_t>(), 4);
}

TEST(IoTensors, SharedStorageIsWrittenOnce) {
  const torch::Tensor base = torch::zeros({10000});
  Dict root;
  root.set("a", from_at(base));
  root.set("b", from_at(base.slice(0, 5000)));
  EXPECT_LT(pytorch_bytes(root).size(), 42000u);
  EXPECT_EQ(pytorch_bytes(root), pytorch_bytes(root));
}

TEST(IoTensors, ASnapshotIsReadAgain) {
  Dict snapshot, optimizer, state;
  state.items.push_back({int64_t{0}, from_at(torch::ones({2}))});
  optimizer.set("state", state);
  snapshot.set("epoch", 3);
  snapshot.set("state_dict", to_state_dict({{"b", torch::ones({2})}, {"a", torch::zeros({1})}}, "module."));
  snapshot.set("best_prec1", 71.5);
  snapshot.set("optimizer", optimizer);
  const Checkpoint checkpoint = through_file(snapshot);
  EXPECT_EQ(*checkpoint.root.find("epoch")->as<int64_t>(), 3);
  EXPECT_EQ(*checkpoint.root.find("best_prec1")->as<double>(), 71.5);
  const StateDict weights = state_dict(checkpoint.root);
  ASSERT_EQ(weights.tensors.size(), 2u);
  EXPECT_EQ(weights.tensors[0].first, "b");
  EXPECT_TRUE(torch::equal(to_at(weights.tensors[0].second), torch::ones({2})));
}

TEST(IoTensors, UnalignedDataIsCopied) {
  const auto bytes = std::make_shared<std::vector<uint8_t>>(std::vector<uint8_t>{0, 0, 0, 0x80, 0x3f});
  Tensor tensor = make_tensor(DType::kFloat32, {1}, {});
  for (const size_t offset : {size_t{0}, size_t{1}}) {
    tensor.storage = std::make_shared<const Storage>(Storage{bytes, ByteSpan(*bytes).subspan(offset, 4)});
    const float value = to_at(tensor).item<float>();
    EXPECT_EQ(value == 1.0f, offset == 1);
  }
}

TEST(IoTensors, WhatFilesDoNotHaveIsRefused) {
  EXPECT_THROW(from_at(torch::Tensor()), CheckpointError);
  EXPECT_THROW(from_at(torch::ones({2, 2}).to_sparse()), CheckpointError);
  EXPECT_THROW(from_at(torch::ones({2}).to(torch::kFloat8_e5m2)), CheckpointError);
}

}  // namespace
}  // namespace iabn::io
