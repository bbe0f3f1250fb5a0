#pragma once

// Networks of identity-mapping blocks: ResNeXt, WideResNet and a small one for small pictures.
//
// mod1, then modules mod2, mod3, ... of blocks block1, block2, ..., some behind a max pooling; then bn_out, and the
// classifier. The networks differ in mod1 and in the shapes of their blocks.

#include <functional>
#include <memory>
#include <vector>

#include "iabn/models/blocks.h"
#include "iabn/models/network.h"

namespace iabn::models {

class IdentityNetwork : public Network {
 public:
  torch::Tensor forward(torch::Tensor x) final;

 protected:
  /// mod1; returns the first module's input.
  virtual torch::Tensor begin(torch::Tensor x) = 0;

  /// Adds the next module: `blocks` blocks, whose input has as many channels as the module before puts out.
  void add_module(const NormOptions& options, int64_t in_channels, const std::vector<int64_t>& channels, int64_t blocks,
                  const std::function<BlockShape(int64_t block)>& shape, bool pool_before = false);
  /// bn_out and the classifier; comes last.
  void add_end(const NetworkOptions& options, int64_t channels);

 private:
  struct Part {
    bool pool_before;
    std::vector<std::shared_ptr<IdentityBlock>> blocks;
  };
  std::vector<Part> modules_;
  std::shared_ptr<nn::NormActImpl> bn_out_;
  std::shared_ptr<Classifier> classifier_;
};

/// resnext*: pre-activation bottlenecks with 64 groups, (128, 128, 256) channels in mod2 and twice as many in each
/// further module. mod1 is Stem. blocks: of mod2 to mod5.
class ResNeXt : public IdentityNetwork {
 public:
  ResNeXt(const NetworkOptions& options, const std::vector<int64_t>& blocks);

 protected:
  torch::Tensor begin(torch::Tensor x) override;

 private:
  std::shared_ptr<Stem> stem_;
};

/// wider_resnet*: mod1.conv1 (3x3, 64 channels), mod2 to mod7 with 128 to 4096 channels, a max pooling before each of
/// mod2 to mod6. With `strided`, wider_resnet*_a2: max pooling before mod2 and mod3 only, further modules stride by
/// convolution, and drop channels in mod6 (0.3) and mod7 (0.5); where options.dilation is on, only mod4 strides, and
/// mod5 has dilation 2, mod6 and mod7 dilation 4. options.input_3x3 is ignored: mod1 is a 3x3 convolution anyway.
class WiderResNet : public IdentityNetwork {
 public:
  /// blocks: of mod2 to mod7.
  WiderResNet(const NetworkOptions& options, const std::vector<int64_t>& blocks, bool strided);

 protected:
  torch::Tensor begin(torch::Tensor x) override;

 private:
  torch::nn::Conv2d conv1_{nullptr};
};

/// preact_resnet*, for small pictures: mod1.conv1 (3x3, options.width channels), then modules whose first block, but in
/// mod2, halves the picture and doubles the channels.
class PreactResNet : public IdentityNetwork {
 public:
  /// blocks: of mod2, mod3, ...
  PreactResNet(const NetworkOptions& options, const std::vector<int64_t>& blocks);

 protected:
  torch::Tensor begin(torch::Tensor x) override;

 private:
  torch::nn::Conv2d conv1_{nullptr};
};

}  // namespace iabn::models
