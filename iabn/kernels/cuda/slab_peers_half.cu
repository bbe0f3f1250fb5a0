#include "iabn/kernels/cuda/slab_launch.cuh"

namespace iabn::kernels::cuda {
IABN_INSTANTIATE_SLAB_PEERS(Half);
}
