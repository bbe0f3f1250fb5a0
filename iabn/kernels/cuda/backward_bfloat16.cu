#include "iabn/kernels/cuda/backward.cuh"

namespace iabn::kernels::cuda {
IABN_INSTANTIATE_BACKWARD(BFloat16);
}
