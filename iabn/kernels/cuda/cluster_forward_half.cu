#include "iabn/kernels/cuda/cluster_launch.cuh"

namespace iabn::kernels::cuda {
IABN_INSTANTIATE_CLUSTER_FORWARD(Half);
}
