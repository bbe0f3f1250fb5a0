#pragma once

// Cross-entropy of every pixel, from logits at a lower resolution.

#include <cstdint>

#include <ATen/core/Tensor.h>

namespace iabn::segmentation {

struct PixelLossOptions {
  int64_t ignore_label = 255;
  double hard_pixels = 1;
  double label_smoothing = 0;
};

struct PixelLoss {
  at::Tensor loss;    // float32 [], differentiable once with respect to the logits
  at::Tensor labels;  // uint8 [N, H, W]: the class with the highest score of each pixel
};

/// logits: [N, C, h, w], C at most 256; truth: int64 [N, H, W]. The logits are scaled to [H, W] bilinearly in float32
/// (half-pixel centres, as interpolate(mode="bilinear", align_corners=False)). A pixel counts where its truth is in
/// [0, C) and not ignore_label; its loss is cross-entropy in float32 with the target
/// (1 - label_smoothing) * onehot(truth) + label_smoothing / C.
///
/// Of the P pixels that count, those are learned from whose loss is at least that of the ceil(hard_pixels * P)-th
/// highest. The result is the mean of their losses, 0 where there is none.
///
/// The scores at full resolution exist for a few rows at a time only: the gradient, which has the logits' small shape,
/// is computed with the loss. Beside it a pixel takes some bytes, and 12 more of each with hard_pixels below 1. Never
/// waits for a GPU; can be captured in a CUDA graph; the same bits each time. Autocast has no effect.
PixelLoss pixel_loss(const at::Tensor& logits, const at::Tensor& truth, const PixelLossOptions& options);

}  // namespace iabn::segmentation
