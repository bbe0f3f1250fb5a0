#include "iabn/data/batch_memory.h"

#include <ATen/ops/from_blob.h>
#include <c10/core/MemoryFormat.h>
#include <c10/util/strides.h>

#include <new>
#include <utility>

namespace iabn::data {
namespace {

constexpr std::align_val_t kAlignment{64};

std::vector<int64_t> strides_of(at::IntArrayRef sizes, at::MemoryFormat format) {
  if (format == at::MemoryFormat::ChannelsLast) return c10::get_channels_last_strides_2d(sizes);
  const auto strides = c10::contiguous_strides(sizes);
  return {strides.begin(), strides.end()};
}

}  // namespace

void BatchMemory::Free::operator()(void* memory) const { ::operator delete(memory, kAlignment); }

at::Tensor BatchMemory::take(at::IntArrayRef sizes, at::ScalarType dtype, at::MemoryFormat format) {
  Piece piece;
  {
    const std::lock_guard lock(mutex_);
    if (!unused_.empty()) {
      piece = std::move(unused_.back());
      unused_.pop_back();
    }
  }
  if (!piece) piece.reset(::operator new(bytes_, kAlignment));
  const auto give_back = [self = shared_from_this()](void* memory) {
    Piece back(memory);
    const std::lock_guard lock(self->mutex_);
    if (self->unused_.size() < self->kept_) self->unused_.push_back(std::move(back));
  };
  const at::Tensor tensor =
      at::from_blob(piece.get(), sizes, strides_of(sizes, format), give_back, at::TensorOptions().dtype(dtype));
  piece.release();  // NOLINT(bugprone-unused-return-value): the tensor owns it now
  return tensor;
}

}  // namespace iabn::data
