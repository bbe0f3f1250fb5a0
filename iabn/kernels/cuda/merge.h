#pragma once

// The merge of iabn/kernels/merge.h on the device. See iabn/kernels/cuda/kernels.h for what all functions share.

#include <cuda_runtime_api.h>

#include "iabn/kernels/merge.h"

namespace iabn::kernels::cuda {

template <class A>
void merge(const Gathered<A>& gathered, const MergeResult<A>& result, cudaStream_t stream);

}  // namespace iabn::kernels::cuda
