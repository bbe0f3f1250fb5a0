#include "iabn/train/metrics.h"

#include <algorithm>
#include <cstdio>

#include <ATen/ATen.h>

namespace iabn::train {

std::string to_text(const Metrics& metrics, bool brief) {
  std::string text;
  char part[96];
  if (metrics.has_loss) {
    std::snprintf(part, sizeof part, "loss %.4f", metrics.loss);
    text = part;
  }
  for (const Percent& percent : metrics.percents) {
    std::snprintf(part, sizeof part, " %s %.2f %%", percent.label.c_str(), percent.value);
    text += text.empty() ? part + 1 : part;
    if (brief) break;
  }
  return text;
}

std::vector<std::pair<std::string, double>> named_values(const Metrics& metrics) {
  std::vector<std::pair<std::string, double>> values;
  if (metrics.has_loss) values.emplace_back("loss", metrics.loss);
  for (const Percent& percent : metrics.percents) values.emplace_back(percent.name, percent.value);
  return values;
}

Meter::Meter(c10::Device device, int64_t numbers)
    : sums_(at::zeros({1 + numbers}, at::TensorOptions(at::kDouble).device(device))) {}

void Meter::add(const at::Tensor& loss, const at::Tensor& answer, const at::Tensor& labels) {
  const at::NoGradGuard no_grad;
  const int64_t count = labels.size(0);
  sums_ += at::cat({(loss.detach().to(at::kDouble) * count).view({1}), hits(answer.detach(), labels)});
}

void Meter::reset() {
  sums_.zero_();
  images_ = 0;
}

Metrics Meter::metrics(const MeterSums& total) const {
  Metrics result;
  result.loss = total.sums[0].item<double>() / static_cast<double>(std::max<int64_t>(total.images, 1));
  result.images = total.images;
  result.percents = percents(total.sums.slice(0, 1), total.images);
  return result;
}

MeterSums Meter::total(const nn::ProcessGroup& group) const {
  if (!group) return {sums_.cpu().clone(), images_};
  std::vector<at::Tensor> packed{at::cat({sums_, at::full({1}, static_cast<double>(images_), sums_.options())})};
  group->allreduce(packed)->wait();
  const at::Tensor host = packed.front().cpu();
  return {host.slice(0, 0, -1).clone(), static_cast<int64_t>(host[-1].item<double>())};
}

void Meter::restore(const MeterSums& total) {
  sums_.copy_(total.sums);
  images_ = total.images;
}

at::Tensor MetricSums::hits(const at::Tensor& answer, const at::Tensor& labels) const {
  const int64_t k = std::min<int64_t>(5, answer.size(1));
  const at::Tensor best = std::get<1>(answer.topk(k, 1));  // [B, k], most likely first
  const at::Tensor hits = best.eq(labels.unsqueeze(1));
  return at::stack({hits.select(1, 0).sum().to(at::kDouble), hits.sum().to(at::kDouble)});
}

std::vector<Percent> MetricSums::percents(const at::Tensor& hits, int64_t images) const {
  const double count = static_cast<double>(std::max<int64_t>(images, 1));
  return {{"top1", "top1", 100 * hits[0].item<double>() / count},
          {"top5", "top5", 100 * hits[1].item<double>() / count}};
}

}  // namespace iabn::train
