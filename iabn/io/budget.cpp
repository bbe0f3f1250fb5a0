#include "iabn/io/budget.h"

#include "iabn/io/error.h"
#include "iabn/io/text.h"
#include "iabn/io/visit.h"

namespace iabn::io {

void check_expansion(const Value& root, size_t file_bytes) {
  constexpr size_t kAlways = size_t{64} << 20, kTimes = 16;
  const size_t limit = kAlways + kTimes * file_bytes;
  size_t total = 0;
  for_each_tensor(root, [&](const std::string& key, const Tensor& tensor) {
    size_t bytes = 0;
    if (__builtin_mul_overflow(static_cast<size_t>(tensor.numel()), size_of(tensor.dtype), &bytes) ||
        __builtin_add_overflow(total, bytes, &total) || total > limit) {
      throw CheckpointError("tensor " + printable(key) + " repeats its storage: the tensors so far have more than " +
                            std::to_string(limit) + " bytes in a file of " + std::to_string(file_bytes));
    }
  });
}

}  // namespace iabn::io
