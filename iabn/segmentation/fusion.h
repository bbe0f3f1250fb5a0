#pragma once

// How the views of a picture (scales, mirrored or not) become one answer.

#include <cstdint>
#include <string>

#include <ATen/core/Tensor.h>

namespace iabn::segmentation {

/// From each view's softmax scores at the picture's size. "The highest" is the lowest class index where several are.
enum class Fusion {
  kMean,    ///< the class with the highest mean; confidence: that mean
  kVoting,  ///< the class that most views score highest; confidence: the mean of its scores over all views
  kMax,     ///< the class of the view with the highest score, the first such view; confidence: that score
};

/// "mean", "voting" or "max"; anything else throws std::invalid_argument naming the choices.
Fusion fusion_from_name(const std::string& name);

struct Prediction {
  at::Tensor labels;      // uint8 [H, W]
  at::Tensor confidence;  // float32 [H, W], in [0, 1]; NaN where a network's logits are no numbers
};

/// Takes the views one by one; keeps one number per class and pixel for the mean, two for voting, two per pixel for
/// the maximum, whatever the number of views. Work on the scores' device alone; the host never waits for it.
class Fuser {
 public:
  explicit Fuser(Fusion fusion) : fusion_(fusion) {}
  /// scores: float32 [classes, H, W], at most 256 classes; may be overwritten.
  void add(at::Tensor scores);
  /// After one view or more.
  Prediction result() const;

 private:
  Fusion fusion_;
  int64_t views_ = 0;
  at::Tensor sum_;           // [classes, H, W]
  at::Tensor votes_;         // int32 [classes, H, W]
  at::Tensor best_, label_;  // of kMax: [H, W], int64 [H, W]
};

}  // namespace iabn::segmentation
