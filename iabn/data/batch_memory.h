#pragma once

// Memory for batches that is used again: a fresh batch of 32 images of 224 x 224 costs 4700 page faults, a tenth of the
// loader's whole processor time.

#include <ATen/core/Tensor.h>
#include <c10/core/ScalarType.h>

#include <cstddef>
#include <memory>
#include <mutex>
#include <vector>

namespace iabn::data {

/// Give-backs come from whichever thread drops a tensor last, also after the loader has gone: tensors keep this object.
class BatchMemory : public std::enable_shared_from_this<BatchMemory> {
 public:
  /// bytes: of the largest tensor asked for. kept: unused pieces at most; more go back to the system.
  BatchMemory(size_t bytes, size_t kept) : bytes_(bytes), kept_(kept) {}
  BatchMemory(const BatchMemory&) = delete;
  BatchMemory& operator=(const BatchMemory&) = delete;

  /// A tensor, values not set. Of the formats, channels-last is for [n, c, h, w].
  at::Tensor take(at::IntArrayRef sizes, at::ScalarType dtype, at::MemoryFormat format);

 private:
  struct Free {
    void operator()(void* memory) const;
  };
  using Piece = std::unique_ptr<void, Free>;

  const size_t bytes_, kept_;
  std::mutex mutex_;
  std::vector<Piece> unused_;
};

}  // namespace iabn::data
