#include "iabn/kernels/cuda/channel.cuh"

namespace iabn::kernels::cuda {
IABN_INSTANTIATE_CHANNEL(Half);
}
