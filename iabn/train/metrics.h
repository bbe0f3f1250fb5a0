#pragma once

// Loss and accuracy over many batches.

#include <cstdint>

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include "iabn/nn/sync.h"

namespace iabn::train {

struct Metrics {
  double loss = 0;  // mean per image
  double top1 = 0;  // percent
  double top5 = 0;
  int64_t images = 0;
};

/// Sums stay on the device until values() is called, so adding a batch never waits for a GPU.
class MetricSums {
 public:
  explicit MetricSums(c10::Device device);

  /// loss: mean over the batch, []; logits: [B, classes]; labels: [B]. Work on the device alone, so that a CUDA graph
  /// can repeat it: the images are counted by count().
  void add(const at::Tensor& loss, const at::Tensor& logits, const at::Tensor& labels);
  void count(int64_t images) { images_ += images; }
  /// Back to nothing, with the sums where they are.
  void reset();
  Metrics values() const;
  /// Of all processes; a collective. A null group: values().
  Metrics values(const nn::ProcessGroup& group) const;

  /// For snapshots: float64 [3] on the CPU (sums of loss, top-1 hits, top-5 hits), and the number of images.
  at::Tensor sums() const;
  int64_t images() const { return images_; }
  void restore(const at::Tensor& sums, int64_t images);

 private:
  at::Tensor sums_;
  int64_t images_ = 0;
};

}  // namespace iabn::train
