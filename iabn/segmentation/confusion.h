#pragma once

// How often which class was taken for which, and the figures made of it.

#include <cstdint>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

namespace iabn::segmentation {

struct IouTable {
  double mean_iou = 0;          // percent, over the classes whose IoU is a number; NaN where there is none
  double pixel_accuracy = 0;    // percent; NaN where no pixel counts
  std::vector<double> iou;      // percent per class: hits / (hits + misses + false alarms); NaN where it never occurs
  std::vector<int64_t> pixels;  // per class, in the masks
};

/// int64 [classes, classes] on the device: [truth, label]. labels and truth: integers of one shape on the device,
/// labels in [0, classes); where truth is outside that a pixel counts nowhere. Needs 32 MB at most beside its inputs,
/// and never waits for a GPU.
at::Tensor confusion_counts(const at::Tensor& labels, const at::Tensor& truth, int64_t classes);

/// counts: [classes, classes] on the CPU, int64 or float64. `ignored`: a class that masks never count, so that its
/// false alarms (misses of the others) are no IoU of 0: it gets NaN. -1: none.
IouTable iou_table(const at::Tensor& counts, int64_t ignored = -1);

/// Adding never waits for a GPU.
class ConfusionMatrix {
 public:
  ConfusionMatrix(int64_t classes, c10::Device device);
  /// See confusion_counts(). Work on the device alone, so that a CUDA graph can repeat it.
  void add(const at::Tensor& labels, const at::Tensor& truth);
  void reset();
  /// int64 [classes, classes] on the device: [truth, label].
  const at::Tensor& counts() const { return counts_; }

 private:
  at::Tensor counts_;
};

}  // namespace iabn::segmentation
