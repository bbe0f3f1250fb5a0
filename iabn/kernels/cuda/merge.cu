// Statistics of all processes from those that were gathered: one block, because the counter of batches is read by every
// channel before it is raised, and the numbers are few: 12 bytes per channel and process, 24 in double.

#include "iabn/kernels/cuda/launch.h"
#include "iabn/kernels/cuda/merge.h"

namespace iabn::kernels::cuda {
namespace {

constexpr int kMergeThreads = 1024;

template <class A>
__global__ void __launch_bounds__(kMergeThreads) merge_kernel(Gathered<A> gathered, MergeResult<A> result) {
  int64_t* counter = result.running.batches;
  const int64_t batches = counter ? *counter + 1 : 1;
  double count = 0;
  for (int64_t c = threadIdx.x; c < gathered.channels; c += kMergeThreads) {
    const Welford<double> all = gathered.merged(c);
    result.store(c, all, batches);
    count = all.count;
  }
  if (!counter) return;
  __syncthreads();  // everyone has read the counter
  if (threadIdx.x == 0 && count >= 2) *counter = batches;
}

}  // namespace

template <class A>
void merge(const Gathered<A>& gathered, const MergeResult<A>& result, cudaStream_t stream) {
  merge_kernel<<<1, kMergeThreads, 0, stream>>>(gathered, result);
  check_launch("merge_kernel");
}

template void merge(const Gathered<float>&, const MergeResult<float>&, cudaStream_t);
template void merge(const Gathered<double>&, const MergeResult<double>&, cudaStream_t);

}  // namespace iabn::kernels::cuda
