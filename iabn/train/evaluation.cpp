#include "iabn/train/evaluation.h"

#include <ATen/ATen.h>

#include "iabn/models/network.h"
#include "iabn/train/precision.h"

namespace iabn::train {

std::optional<Metrics> evaluate(models::Network& network, DeviceLoader& loader, c10::Device device,
                                at::ScalarType dtype, int64_t crops, const std::function<bool()>& stop,
                                const nn::ProcessGroup& group) {
  const at::NoGradGuard no_grad;
  network.eval();
  MetricSums sums(device);
  loader.start_epoch(0);
  while (auto batch = loader.next()) {
    if (stop()) return std::nullopt;
    at::Tensor logits;
    {
      const Autocast autocast(device, dtype);
      logits = network.forward(std::move(batch->images)).to(at::kFloat);
    }
    if (crops > 1) logits = logits.view({-1, crops, logits.size(1)}).mean(1);
    sums.add(at::cross_entropy_loss(logits, batch->labels), logits, batch->labels);
    sums.count(batch->labels.size(0));
    loader.prefetch();
  }
  return sums.values(group);
}

}  // namespace iabn::train
