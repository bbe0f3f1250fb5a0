#include "iabn/train/memory_meter.h"

#include <mutex>
#include <stdexcept>
#include <unordered_map>

#include <ATen/ATen.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/CachingDeviceAllocator.h>

namespace iabn::train {
namespace {

// Note [Counting allocator]
// Stands in front of LibTorch's CPU allocator. A block's context must be its data pointer (raw_allocate insists), so
// the sizes lie in a table instead of a header. The object lives as long as the process, because a block that it gave
// out may outlive the meter; the block then is freed through the deleter below, as ever.
class CountingAllocator final : public c10::Allocator {
 public:
  static CountingAllocator& instance() {
    static auto* allocator = new CountingAllocator;
    return *allocator;
  }

  void install() {
    const std::lock_guard lock(mutex_);
    if (installed_) throw std::logic_error("MemoryMeter: only one meter of the CPU may live at a time");
    inner_ = c10::GetCPUAllocator();
    installed_ = true;
    current_ = peak_ = 0;
    sizes_.clear();  // blocks of the meter before: their release must not count here
    c10::SetCPUAllocator(this);
  }

  void remove() {
    const std::lock_guard lock(mutex_);
    c10::SetCPUAllocator(inner_);
    installed_ = false;
  }

  c10::DataPtr allocate(size_t bytes) override {
    void* data = inner_->raw_allocate(bytes);
    if (data != nullptr) {
      const std::lock_guard lock(mutex_);
      sizes_[data] = bytes;
      current_ += static_cast<int64_t>(bytes);
      if (current_ > peak_) peak_ = current_;
    }
    return {data, data, &release, c10::Device(c10::kCPU)};
  }

  c10::DeleterFnPtr raw_deleter() const override { return &release; }

  void copy_data(void* to, const void* from, std::size_t bytes) const override { default_copy_data(to, from, bytes); }

  int64_t current() const {
    const std::lock_guard lock(mutex_);
    return current_;
  }
  int64_t peak() const {
    const std::lock_guard lock(mutex_);
    return peak_;
  }
  void reset_peak() {
    const std::lock_guard lock(mutex_);
    peak_ = current_;
  }

 private:
  CountingAllocator() = default;

  static void release(void* data) {
    if (data == nullptr) return;
    CountingAllocator& self = instance();
    {
      const std::lock_guard lock(self.mutex_);
      const auto found = self.sizes_.find(data);
      if (found != self.sizes_.end()) {
        self.current_ -= static_cast<int64_t>(found->second);
        self.sizes_.erase(found);
      }
    }
    self.inner_->raw_deallocate(data);
  }

  mutable std::mutex mutex_;
  std::unordered_map<void*, size_t> sizes_;
  c10::Allocator* inner_ = nullptr;
  bool installed_ = false;
  int64_t current_ = 0;
  int64_t peak_ = 0;
};

int64_t aggregate(const c10::CachingAllocator::StatArray& stats, int64_t c10::CachingAllocator::Stat::*field) {
  return stats[static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE)].*field;
}

}  // namespace

MemoryMeter::MemoryMeter(c10::Device device) : device_(device) {
  if (device_.is_cpu()) {
    CountingAllocator::instance().install();
  } else {
    // A GPU's allocator exists from the first tensor on; that tensor also tells the number of the current device.
    device_ = at::empty({1}, at::TensorOptions(device)).device();
  }
  reset_peak();
}

MemoryMeter::~MemoryMeter() {
  if (device_.is_cpu()) CountingAllocator::instance().remove();
}

int64_t MemoryMeter::current() const {
  if (device_.is_cpu()) return CountingAllocator::instance().current();
  const auto stats = c10::getDeviceAllocator(device_.type())->getDeviceStats(device_.index());
  return aggregate(stats.allocated_bytes, &c10::CachingAllocator::Stat::current);
}

int64_t MemoryMeter::peak() const {
  if (device_.is_cpu()) return CountingAllocator::instance().peak();
  const auto stats = c10::getDeviceAllocator(device_.type())->getDeviceStats(device_.index());
  return aggregate(stats.allocated_bytes, &c10::CachingAllocator::Stat::peak);
}

void MemoryMeter::reset_peak() {
  if (device_.is_cpu()) return CountingAllocator::instance().reset_peak();
  c10::getDeviceAllocator(device_.type())->resetPeakStats(device_.index());
}

}  // namespace iabn::train
