#include "iabn/segmentation/confusion.h"

#include <algorithm>
#include <limits>

#include <ATen/ATen.h>

namespace iabn::segmentation {
namespace {

constexpr int64_t kPixelsAtOnce = 1 << 20;
// Numbers to spread over: most pixels of a batch are of a few classes, and a GPU adds to one address one after another.
constexpr int64_t kSpread = 1 << 14;

}  // namespace

at::Tensor confusion_counts(const at::Tensor& labels, const at::Tensor& truth, int64_t classes) {
  TORCH_CHECK(labels.sizes() == truth.sizes(), "confusion_counts: truth must have the shape of labels, ",
              labels.sizes(), ", got ", truth.sizes());
  const at::NoGradGuard no_grad;
  const at::Tensor flat_labels = labels.reshape({-1}), flat_truth = truth.reshape({-1});
  const int64_t pixels = flat_labels.numel(), bins = classes * classes + 1;  // the last is for what does not count
  const int64_t copies = labels.is_cpu() ? 1 : std::max<int64_t>(1, kSpread / bins);
  const auto integers = at::TensorOptions(at::kLong).device(labels.device());
  at::Tensor counts = at::zeros({copies * bins}, integers);
  const at::Tensor one = at::ones({1}, integers);
  for (int64_t begin = 0; begin < pixels; begin += kPixelsAtOnce) {
    const int64_t end = std::min(pixels, begin + kPixelsAtOnce);
    const at::Tensor rows = flat_truth.slice(0, begin, end).to(at::kLong);
    at::Tensor bin = (rows * classes).add_(flat_labels.slice(0, begin, end));
    bin.masked_fill_(rows.lt(0).logical_or_(rows.ge(classes)), bins - 1);
    if (copies > 1) bin.add_(at::arange(end - begin, integers).remainder_(copies), bins);
    counts.scatter_add_(0, bin, one.expand(end - begin));
  }
  return counts.view({copies, bins}).sum(0).slice(0, 0, bins - 1).view({classes, classes});
}

IouTable iou_table(const at::Tensor& counts, int64_t ignored) {
  const at::Tensor matrix = counts.to(at::kDouble);
  const at::Tensor hits = matrix.diagonal(), in_masks = matrix.sum(1), in_labels = matrix.sum(0);
  const auto classes = matrix.size(0);
  constexpr double kNone = std::numeric_limits<double>::quiet_NaN();
  IouTable table;
  double sum = 0, occurring = 0;
  for (int64_t c = 0; c < classes; ++c) {
    const double hit = hits[c].item<double>(), mask = in_masks[c].item<double>();
    const double either = mask + in_labels[c].item<double>() - hit;
    table.pixels.push_back(static_cast<int64_t>(mask));
    const bool counts_in = either > 0 && c != ignored;
    table.iou.push_back(counts_in ? 100 * hit / either : kNone);
    if (!counts_in) continue;
    sum += table.iou.back();
    ++occurring;
  }
  table.mean_iou = occurring > 0 ? sum / occurring : kNone;
  const double all = matrix.sum().item<double>();
  table.pixel_accuracy = all > 0 ? 100 * hits.sum().item<double>() / all : kNone;
  return table;
}

ConfusionMatrix::ConfusionMatrix(int64_t classes, c10::Device device)
    : counts_(at::zeros({classes, classes}, at::TensorOptions(at::kLong).device(device))) {}

void ConfusionMatrix::add(const at::Tensor& labels, const at::Tensor& truth) {
  counts_ += confusion_counts(labels, truth, counts_.size(0));
}

void ConfusionMatrix::reset() { counts_.zero_(); }

}  // namespace iabn::segmentation
