// Apart, because it alone needs NCCL's header.

#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>

#include "iabn/train/distributed.h"

namespace iabn::train {

c10::intrusive_ptr<c10d::Backend> make_nccl(const c10::intrusive_ptr<c10d::Store>& store, int rank, int size,
                                            std::chrono::milliseconds timeout, int blocks) {
  auto options = c10d::ProcessGroupNCCL::Options::create();
  options->timeout = timeout;
  if (blocks > 0) options->config.maxCTAs = blocks;
  return c10::make_intrusive<c10d::ProcessGroupNCCL>(store, rank, size, options);
}

}  // namespace iabn::train
