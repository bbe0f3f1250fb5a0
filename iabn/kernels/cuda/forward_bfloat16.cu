#include "iabn/kernels/cuda/forward.cuh"

namespace iabn::kernels::cuda {
IABN_INSTANTIATE_FORWARD(BFloat16);
}
