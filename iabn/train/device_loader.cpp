#include "iabn/train/device_loader.h"

#include <utility>

#include <ATen/core/Tensor.h>
#include <c10/core/Event.h>
#include <c10/core/StreamGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>

namespace iabn::train {

struct DeviceLoader::Copies {
  explicit Copies(c10::Device device)
      : guard(device.type()), stream(guard.getStreamFromGlobalPool(device)), done(device.type()) {}
  c10::impl::VirtualGuardImpl guard;
  c10::Stream stream;
  c10::Event done;
};

DeviceLoader::DeviceLoader(data::Loader& loader, c10::Device device) : loader_(loader), device_(device) {
  if (!device.is_cpu()) copies_ = std::make_unique<Copies>(device);
}

DeviceLoader::~DeviceLoader() = default;

void DeviceLoader::start_epoch(int64_t epoch, int64_t first_batch) {
  ahead_.reset();
  fetched_ = false;
  loader_.start_epoch(epoch, first_batch);
}

void DeviceLoader::prefetch() {
  if (fetched_) return;
  const auto batch = loader_.next();
  fetched_ = !batch || !copies_;  // of a copy that fails, nothing was fetched
  if (!batch) return;
  if (!copies_) {
    ahead_ = DeviceBatch{batch->images, batch->labels};
    return;
  }
  const c10::Stream user = copies_->guard.getStream(device_);
  const c10::StreamGuard on_copy_stream(copies_->stream);
  ahead_ = DeviceBatch{batch->images.to(device_, /*non_blocking=*/true), batch->labels.to(device_, true)};
  copies_->done.record(copies_->stream);
  // The memory belongs to the copy stream: it must not be given out again while the user still reads it.
  ahead_->images.record_stream(user);
  ahead_->labels.record_stream(user);
  fetched_ = true;
}

std::optional<DeviceBatch> DeviceLoader::next() {
  prefetch();
  fetched_ = false;
  if (ahead_ && copies_) copies_->done.block(copies_->guard.getStream(device_));
  return std::exchange(ahead_, std::nullopt);
}

}  // namespace iabn::train
