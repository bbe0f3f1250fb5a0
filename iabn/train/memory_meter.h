#pragma once

// Bytes counted by the allocator of a device: what tensors hold, not what shapes suggest.

#include <cstdint>

#include <c10/core/Device.h>

namespace iabn::train {

/// While a meter of a CPU lives, every allocation of LibTorch's CPU allocator in the process is counted, on whatever
/// thread it is made or freed; memory from before is unknown to it, and its release not seen. So make the meter first,
/// then what it is to measure. On a GPU the counts are the caching allocator's own (blocks, rounded up to 512 bytes).
/// Not counted: memory that never passes LibTorch's allocator, such as oneDNN's and cuDNN's own buffers.
/// At most one meter of a CPU lives at a time; a second one throws std::logic_error.
class MemoryMeter {
 public:
  explicit MemoryMeter(c10::Device device);
  ~MemoryMeter();
  MemoryMeter(const MemoryMeter&) = delete;
  MemoryMeter& operator=(const MemoryMeter&) = delete;

  /// Bytes allocated now.
  int64_t current() const;
  /// The largest current() since the start or the last reset_peak().
  int64_t peak() const;
  void reset_peak();

 private:
  c10::Device device_;
};

}  // namespace iabn::train
