// Apart, because it alone needs Gloo's headers.

#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>

#include "iabn/train/distributed.h"

namespace iabn::train {

c10::intrusive_ptr<c10d::Backend> make_gloo(const c10::intrusive_ptr<c10d::Store>& store, int rank, int size,
                                            std::chrono::milliseconds timeout) {
  auto options = c10d::ProcessGroupGloo::Options::create(timeout);
  options->devices.push_back(c10d::ProcessGroupGloo::createDefaultDevice());
  return c10::make_intrusive<c10d::ProcessGroupGloo>(store, rank, size, options);
}

}  // namespace iabn::train
