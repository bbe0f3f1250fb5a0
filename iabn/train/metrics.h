#pragma once

// Loss and accuracy over many batches.

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include "iabn/nn/sync.h"

namespace iabn::train {

/// A figure in percent: `name` for files ("miou"), `label` for people ("mIoU").
struct Percent {
  std::string name, label;
  double value = 0;
};

struct Metrics {
  double loss = 0;       // mean per image
  bool has_loss = true;  // false: nobody computed it
  int64_t images = 0;
  std::vector<Percent> percents;  // the first is what networks are judged by

  double score() const { return percents.front().value; }
};

/// "loss 0.4123 top1 85.12 % top5 99.00 %", with the first percent only where `brief`.
std::string to_text(const Metrics& metrics, bool brief = false);

/// Loss, if there is one, and percents under the names that log files give them: {"loss", 0.4123}, {"top1", 85.12}.
std::vector<std::pair<std::string, double>> named_values(const Metrics& metrics);

/// What a Meter has summed: float64 [n] on the CPU, the sum of losses first, and the number of images.
struct MeterSums {
  at::Tensor sums;
  int64_t images = 0;
};

/// Sums over batches, each task its own. They stay on the device until values() is called, so adding a batch never
/// waits for a GPU.
class Meter {
 public:
  virtual ~Meter() = default;

  /// loss: mean over the batch, []; answer: what the task's loss gave beside it (see task.h); labels: [B, ...]. Work on
  /// the device alone, so that a CUDA graph can repeat it: the images are counted by count().
  void add(const at::Tensor& loss, const at::Tensor& answer, const at::Tensor& labels);
  void count(int64_t images) { images_ += images; }
  /// Back to nothing, with the sums where they are.
  void reset();
  Metrics values() const { return values(nullptr); }
  /// Of all processes; a collective. A null group: values().
  Metrics values(const nn::ProcessGroup& group) const { return metrics(total(group)); }

  /// For snapshots, of all processes; a collective, except with a null group.
  MeterSums total(const nn::ProcessGroup& group) const;
  /// How many numbers total() has.
  int64_t numbers() const { return sums_.numel(); }
  void restore(const MeterSums& total);

 protected:
  /// numbers: what hits() returns.
  Meter(c10::Device device, int64_t numbers);

  /// What is summed of a batch, beside the loss: float64 [numbers] on the device. Integers up to 2^53 stay exact.
  virtual at::Tensor hits(const at::Tensor& answer, const at::Tensor& labels) const = 0;
  /// hits: their sums, on the CPU.
  virtual std::vector<Percent> percents(const at::Tensor& hits, int64_t images) const = 0;

 private:
  Metrics metrics(const MeterSums& total) const;

  at::Tensor sums_;
  int64_t images_ = 0;
};

/// Of classification: top1 and top5. The answer of a batch is its logits, [B, classes]; labels: [B].
class MetricSums final : public Meter {
 public:
  explicit MetricSums(c10::Device device) : Meter(device, 2) {}

 private:
  at::Tensor hits(const at::Tensor& answer, const at::Tensor& labels) const override;
  std::vector<Percent> percents(const at::Tensor& hits, int64_t images) const override;
};

}  // namespace iabn::train
