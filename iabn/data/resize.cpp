#include "iabn/data/resize.h"

#include <ATen/ops/_upsample_bilinear2d_aa.h>
#include <ATen/ops/from_blob.h>
#include <c10/core/InferenceMode.h>

#include "iabn/data/single_thread.h"

namespace iabn::data {

Image resize(const Image& image, const Box& box, int64_t height, int64_t width) {
  const c10::InferenceMode no_autograd;
  const SingleThread single_thread;
  const int64_t channels = image.channels;
  const int64_t row = image.width * channels;
  // ATen only reads through this pointer.
  auto* start = const_cast<uint8_t*>(image.pixels + box.top * row + box.left * channels);
  const at::Tensor part = at::from_blob(start, {1, channels, box.height, box.width},
                                        {row * box.height, 1, row, channels}, at::TensorOptions().dtype(at::kByte));
  Image result = make_image(height, width, channels);
  at::Tensor out = at::from_blob(result.owned.get(), {1, channels, height, width},
                                 {result.bytes(), 1, width * channels, channels}, at::TensorOptions().dtype(at::kByte));
  const bool corners = false;
  // Interleaved pixels are ATen's channels-last format: its fast path for bytes, with no copy of the layout.
  at::_upsample_bilinear2d_aa_out(out, part.contiguous(at::MemoryFormat::ChannelsLast), {height, width}, corners);
  return result;
}

}  // namespace iabn::data
