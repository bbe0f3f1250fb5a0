#pragma once

// Loss and accuracy of a network over a loader's images.

#include <functional>
#include <optional>

#include <c10/core/Device.h>
#include <c10/core/ScalarType.h>

#include "iabn/train/device_loader.h"
#include "iabn/train/metrics.h"

namespace iabn::models {
class Network;
}

namespace iabn::train {

/// Every image of the loader once, in evaluation mode, without gradients, with autocast to `dtype`. Each label has
/// `crops` images in a row in a batch, whose logits are averaged. Nothing where `stop` became true, which is asked
/// before each batch. group: of processes that each have a share of the images; the result is that of all.
std::optional<Metrics> evaluate(models::Network& network, DeviceLoader& loader, c10::Device device,
                                at::ScalarType dtype, int64_t crops, const std::function<bool()>& stop,
                                const nn::ProcessGroup& group = {});

}  // namespace iabn::train
