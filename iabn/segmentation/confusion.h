#pragma once

// How often which class was taken for which, and the figures made of it.

#include <cstdint>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include "iabn/nn/sync.h"

namespace iabn::segmentation {

struct IouTable {
  double mean_iou = 0;          // percent, over the classes that occur in masks or predictions
  double pixel_accuracy = 0;    // percent
  std::vector<double> iou;      // percent per class: hits / (hits + misses + false alarms); NaN where it never occurs
  std::vector<int64_t> pixels;  // per class, in the masks
};

/// int64 [classes, classes] on the device: [truth, label]. labels and truth: integers of one shape on the device,
/// labels in [0, classes); where truth is outside that a pixel counts nowhere. Needs 32 MB at most beside its inputs,
/// and never waits for a GPU.
at::Tensor confusion_counts(const at::Tensor& labels, const at::Tensor& truth, int64_t classes);

/// counts: [classes, classes] on the CPU, int64 or float64.
IouTable iou_table(const at::Tensor& counts);

/// Counts stay on the device until table() is called, so adding never waits for a GPU.
class ConfusionMatrix {
 public:
  ConfusionMatrix(int64_t classes, c10::Device device);
  /// See confusion_counts(). Work on the device alone, so that a CUDA graph can repeat it.
  void add(const at::Tensor& labels, const at::Tensor& truth);
  void reset();
  /// int64 [classes, classes] on the device: [truth, label].
  const at::Tensor& counts() const { return counts_; }
  /// Of all processes; a collective. A null group: of this one.
  IouTable table(const nn::ProcessGroup& group = {}) const;

 private:
  at::Tensor counts_;
};

}  // namespace iabn::segmentation
