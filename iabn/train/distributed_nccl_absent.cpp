// Stands in for distributed_nccl.cpp in a build without CUDA.

#include <stdexcept>

#include "iabn/train/distributed.h"

namespace iabn::train {

c10::intrusive_ptr<c10d::Backend> make_nccl(const c10::intrusive_ptr<c10d::Store>&, int, int, std::chrono::milliseconds,
                                            int) {
  throw std::invalid_argument("this build of iabn has no NCCL; build it with -DIABN_CUDA=ON");
}

}  // namespace iabn::train
