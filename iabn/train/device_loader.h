#pragma once

// Batches on the device, copied there while the device computes.

#include <cstdint>
#include <memory>
#include <optional>

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include "iabn/data/loader.h"

namespace iabn::train {

struct DeviceBatch {
  at::Tensor images;  // as data::Batch, on the device
  at::Tensor labels;
};

/// Stands in front of a loader: on a GPU the copy of a batch runs on a stream of its own, from the call of prefetch()
/// on, which belongs between issuing a step and asking for the next batch.
class DeviceLoader {
 public:
  DeviceLoader(data::Loader& loader, c10::Device device);
  ~DeviceLoader();
  DeviceLoader(const DeviceLoader&) = delete;
  DeviceLoader& operator=(const DeviceLoader&) = delete;

  /// See data::Loader::start_epoch; forgets a batch that was fetched ahead.
  void start_epoch(int64_t epoch, int64_t first_batch = 0);
  /// Fetches the next batch and begins its copy; throws what data::Loader::next throws.
  void prefetch();
  /// The next batch, ready in the order of the current stream, or nothing at the end of the epoch.
  std::optional<DeviceBatch> next();

  data::Loader& loader() { return loader_; }

 private:
  struct Copies;  // the stream and the event
  data::Loader& loader_;
  c10::Device device_;
  std::unique_ptr<Copies> copies_;  // null on the CPU
  bool fetched_ = false;
  std::optional<DeviceBatch> ahead_;
};

}  // namespace iabn::train
