#include "iabn/train/metrics.h"

#include <algorithm>

#include <ATen/ATen.h>

namespace iabn::train {

MetricSums::MetricSums(c10::Device device) : sums_(at::zeros({3}, at::TensorOptions(at::kDouble).device(device))) {}

void MetricSums::add(const at::Tensor& loss, const at::Tensor& logits, const at::Tensor& labels) {
  const at::NoGradGuard no_grad;
  const int64_t count = labels.size(0);
  const int64_t k = std::min<int64_t>(5, logits.size(1));
  const at::Tensor best = std::get<1>(logits.detach().topk(k, 1));  // [B, k], most likely first
  const at::Tensor hits = best.eq(labels.unsqueeze(1));
  sums_ += at::stack(
      {loss.detach().to(at::kDouble) * count, hits.select(1, 0).sum().to(at::kDouble), hits.sum().to(at::kDouble)});
}

void MetricSums::reset() {
  sums_.zero_();
  images_ = 0;
}

Metrics MetricSums::values() const {
  const at::Tensor host = sums();
  const double* sum = host.const_data_ptr<double>();
  const double count = static_cast<double>(std::max<int64_t>(images_, 1));
  return {sum[0] / count, 100 * sum[1] / count, 100 * sum[2] / count, images_};
}

Metrics MetricSums::values(const nn::ProcessGroup& group) const {
  if (!group) return values();
  MetricSums all(sums_.device());
  at::Tensor packed = at::cat({sums_, at::full({1}, static_cast<double>(images_), sums_.options())});
  std::vector<at::Tensor> list{packed};
  group->allreduce(list)->wait();
  const at::Tensor host = packed.cpu();
  all.restore(host.slice(0, 0, 3), static_cast<int64_t>(host[3].item<double>()));
  return all.values();
}

at::Tensor MetricSums::sums() const { return sums_.cpu().clone(); }

void MetricSums::restore(const at::Tensor& sums, int64_t images) {
  sums_.copy_(sums);
  images_ = images;
}

}  // namespace iabn::train
