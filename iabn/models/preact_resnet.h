#pragma once

// A pre-activation (identity mapping) residual network for small pictures.
//
// mod1.conv1 (3x3, width channels), then modules mod2, mod3, ... of blocks block1, block2, ...; bn_out; classifier =
// global average pool and fc. The first block of each module but mod2 halves the picture and doubles the channels.
// A block is  bn1 -> conv1 -> bn2 -> conv2  plus a shortcut, each bn a norm and an activation. The shortcut is the
// block's input x, or proj_conv (1x1) of bn1's output where channels or stride change.

#include <memory>
#include <vector>

#include <torch/nn/modules/conv.h>
#include <torch/nn/modules/linear.h>

#include "iabn/models/network.h"
#include "iabn/nn/abn.h"

namespace iabn::models {

class IdentityBlock : public torch::nn::Module {
 public:
  IdentityBlock(const NetworkOptions& options, int64_t in_channels, int64_t channels, int64_t stride);
  /// x: [N, in_channels, H, W]; the caller gives it up: in-place networks overwrite it where no one else needs it.
  torch::Tensor forward(torch::Tensor x);

 private:
  bool keep_input_;  // the shortcut is x itself and bn1 would overwrite it
  std::shared_ptr<nn::NormActImpl> bn1_, bn2_;
  torch::nn::Conv2d conv1_{nullptr}, conv2_{nullptr}, proj_conv_{nullptr};
};

class PreactResNet : public Network {
 public:
  /// blocks: the number of blocks of mod2, mod3, ...
  PreactResNet(const NetworkOptions& options, const std::vector<int64_t>& blocks);
  torch::Tensor forward(torch::Tensor x) override;

 private:
  torch::nn::Conv2d conv1_{nullptr};
  std::vector<std::shared_ptr<IdentityBlock>> blocks_;
  std::shared_ptr<nn::NormActImpl> bn_out_;
  torch::nn::Linear fc_{nullptr};
};

}  // namespace iabn::models
