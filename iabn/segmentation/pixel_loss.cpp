#include "iabn/segmentation/pixel_loss.h"

#include <algorithm>
#include <cmath>

#include <ATen/ATen.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/csrc/autograd/custom_function.h>

namespace iabn::segmentation {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Scores at full resolution that exist at once: 16 MiB, which with the copies of a softmax fit the L2 of a large GPU.
constexpr int64_t kScoresAtOnce = 1 << 22;

// [out, in]: row i holds the weights with which output i is made of the inputs. A matrix, because PyTorch's own
// upsampling adds up its gradient in no fixed order.
Tensor bilinear(int64_t out, int64_t in, c10::Device device) {
  const auto numbers = at::TensorOptions(at::kDouble).device(device);
  const double scale = static_cast<double>(in) / static_cast<double>(out);
  const Tensor centre = (at::arange(out, numbers) + 0.5).mul_(scale).sub_(0.5).clamp_(0, in - 1);
  return (centre.unsqueeze(1) - at::arange(in, numbers)).abs_().neg_().add_(1).clamp_min_(0).to(at::kFloat);
}

// Rows [first_row, end_row) of images [first, end), at full resolution.
struct Part {
  int64_t first, end, first_row, end_row;
  Tensor of(const Tensor& images) const { return images.slice(0, first, end).slice(1, first_row, end_row); }
};

class Pass {
 public:
  // logits: float32 [N, C, h, w], contiguous.
  Pass(const Tensor& logits, const Tensor& truth, const PixelLossOptions& options)
      : logits_(logits),
        truth_(truth),
        classes_(logits.size(1)),
        smoothing_(options.label_smoothing),
        rows_(bilinear(truth.size(1), logits.size(2), logits.device())),
        columns_(bilinear(truth.size(2), logits.size(3), logits.device())) {}

  // What is defined of them is filled. losses: float32 [N, H, W]; labels: uint8 [N, H, W]; weights: float32 [N, H, W],
  // the loss's derivative with respect to each pixel's; gradient: float32 [N, C, h, w].
  void run(const Tensor& losses, const Tensor& labels, const Tensor& weights, const Tensor& gradient) const;

 private:
  Tensor score_gradient(const Part& where, Tensor log_scores, const Tensor& weights) const;
  Tensor target(const Part& where) const { return where.of(truth_).clamp(0, classes_ - 1).unsqueeze(1); }

  Tensor logits_, truth_;
  int64_t classes_;
  double smoothing_;
  Tensor rows_, columns_;  // [H, h], [W, w]
};

void Pass::run(const Tensor& losses, const Tensor& labels, const Tensor& weights, const Tensor& gradient) const {
  const int64_t count = logits_.size(0), low_rows = logits_.size(2), low_columns = logits_.size(3);
  const int64_t rows = truth_.size(1), columns = truth_.size(2);
  const int64_t rows_at_once = std::clamp<int64_t>(kScoresAtOnce / (classes_ * columns), 1, rows);
  const int64_t images_at_once =
      std::clamp<int64_t>(rows_at_once < rows ? 1 : kScoresAtOnce / (classes_ * columns * rows), 1, count);
  for (int64_t first = 0; first < count; first += images_at_once) {
    const int64_t end = std::min(count, first + images_at_once), maps = (end - first) * classes_;
    const Tensor wide =
        at::mm(logits_.slice(0, first, end).reshape({-1, low_columns}), columns_.t()).view({maps, low_rows, columns});
    const Tensor d_wide = gradient.defined() ? at::zeros_like(wide) : Tensor();
    for (int64_t row = 0; row < rows; row += rows_at_once) {
      const Part where{first, end, row, std::min(rows, row + rows_at_once)};
      const Tensor up = rows_.slice(0, where.first_row, where.end_row).unsqueeze(0).expand({maps, -1, -1});
      const Tensor scores = at::bmm(up, wide).view({end - first, classes_, -1, columns});
      if (labels.defined()) where.of(labels).copy_(scores.argmax(1));
      Tensor log_scores = at::log_softmax(scores, 1);
      if (losses.defined()) {
        Tensor loss = log_scores.gather(1, target(where)).squeeze(1).mul_(smoothing_ - 1);
        if (smoothing_ > 0) loss.sub_(log_scores.sum(1), smoothing_ / static_cast<double>(classes_));
        where.of(losses).copy_(loss);
      }
      if (!gradient.defined()) continue;
      const Tensor d_scores = score_gradient(where, std::move(log_scores), weights);
      d_wide.baddbmm_(up.transpose(1, 2), d_scores.view({maps, -1, columns}));
    }
    if (!gradient.defined()) continue;
    gradient.slice(0, first, end)
        .copy_(at::mm(d_wide.view({-1, columns}), columns_).view({-1, classes_, low_rows, low_columns}));
  }
}

// (softmax - target) * weight, in the memory of log_scores.
Tensor Pass::score_gradient(const Part& where, Tensor log_scores, const Tensor& weights) const {
  const Tensor numbers = at::arange(classes_, truth_.options()).view({1, -1, 1, 1});
  Tensor gradient = log_scores.exp_();
  gradient.add_(numbers.eq(target(where)), smoothing_ - 1);
  if (smoothing_ > 0) gradient.sub_(smoothing_ / static_cast<double>(classes_));
  return gradient.mul_(where.of(weights).unsqueeze(1));
}

// What a NaN does not hide: where a loss is not a number, the pixel is selected.
Tensor hardest(const Tensor& losses, const Tensor& counted, double share) {
  const Tensor sorted =
      std::get<0>(losses.masked_fill(counted.logical_not(), -1).view({-1}).sort(0, /*descending=*/true));
  const Tensor rank = (counted.sum().to(at::kDouble) * share).ceil_().sub_(1).clamp_min_(0).to(at::kLong);
  return losses.lt(sorted.index_select(0, rank.view({1}))).logical_not_().logical_and_(counted);
}

class PixelLossFunction : public torch::autograd::Function<PixelLossFunction> {
 public:
  static Tensor forward(AutogradContext* ctx, const Tensor& logits, const Tensor& truth,
                        const PixelLossOptions& options, const Tensor& labels, bool with_gradient) {
    const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
    const Tensor low = logits.detach().to(at::kFloat).contiguous();
    const Pass pass(low, truth, options);
    Tensor losses = at::empty(truth.sizes(), low.options());
    Tensor chosen = truth.ge(0).logical_and_(truth.lt(low.size(1))).logical_and_(truth.ne(options.ignore_label));
    const bool select = options.hard_pixels < 1;
    if (select) {
      pass.run(losses, labels, {}, {});
      chosen = hardest(losses, chosen, options.hard_pixels);
    }
    const Tensor number = chosen.sum().clamp_min_(1).to(at::kFloat);
    const Tensor gradient = with_gradient ? at::empty_like(low) : Tensor();
    const Tensor weights = with_gradient ? chosen / number : Tensor();
    if (!select) {
      pass.run(losses, labels, weights, gradient);
    } else if (with_gradient) {
      pass.run({}, {}, weights, gradient);
    }
    ctx->save_for_backward({gradient});
    ctx->saved_data["dtype"] = static_cast<int64_t>(logits.scalar_type());
    return losses.masked_fill_(chosen.logical_not_(), 0).sum().div_(number);
  }

  static variable_list backward(AutogradContext* ctx, variable_list d_outputs) {
    TORCH_CHECK(!at::GradMode::is_enabled(), "pixel_loss: differentiable once only");
    const auto dtype = static_cast<at::ScalarType>(ctx->saved_data["dtype"].toInt());
    const Tensor d_logits = ctx->get_saved_variables()[0] * d_outputs[0];
    return {d_logits.to(dtype), {}, {}, {}, {}};
  }
};

}  // namespace

PixelLoss pixel_loss(const Tensor& logits, const Tensor& truth, const PixelLossOptions& options) {
  TORCH_CHECK(logits.dim() == 4 && truth.dim() == 3 && logits.size(0) == truth.size(0),
              "pixel_loss: logits must be [N, C, h, w] and truth [N, H, W], got ", logits.sizes(), " and ",
              truth.sizes());
  PixelLoss result;
  result.labels = at::empty(truth.sizes(), truth.options().dtype(at::kByte));
  const bool with_gradient = at::GradMode::is_enabled() && logits.requires_grad();
  result.loss = PixelLossFunction::apply(logits, truth, options, result.labels, with_gradient);
  return result;
}

}  // namespace iabn::segmentation
