#include "iabn/kernels/cuda/tensor_map.h"

#include <cuda_runtime_api.h>

#include "iabn/kernels/cuda/launch.h"

namespace iabn::kernels::cuda {
namespace {

/// The bits alone matter: `type` is any of the elements' size.
template <int kRank>
CUtensorMap encoded(CUtensorMapDataType type, const void* address, const cuuint64_t (&sizes)[kRank],
                    const cuuint64_t (&strides)[kRank - 1], const cuuint32_t (&box)[kRank]) {
  using Encode = CUresult (*)(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*, const cuuint64_t*,
                              const cuuint64_t*, const cuuint32_t*, const cuuint32_t*, CUtensorMapInterleave,
                              CUtensorMapSwizzle, CUtensorMapL2promotion, CUtensorMapFloatOOBfill);
  static const Encode encode = [] {
    void* function = nullptr;
    cudaDriverEntryPointQueryResult result = cudaDriverEntryPointSymbolNotFound;
    check(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault, &result),
          "cudaGetDriverEntryPointByVersion");
    if (result != cudaDriverEntryPointSuccess) check(cudaErrorNotSupported, "cuTensorMapEncodeTiled");
    return reinterpret_cast<Encode>(function);
  }();
  cuuint32_t steps[kRank];
  for (cuuint32_t& step : steps) step = 1;
  CUtensorMap map;
  const CUresult status =
      encode(&map, type, kRank, const_cast<void*>(address), sizes, strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
             CU_TENSOR_MAP_SWIZZLE_NONE, CU_TENSOR_MAP_L2_PROMOTION_L2_128B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (status != CUDA_SUCCESS) check(cudaErrorInvalidValue, "cuTensorMapEncodeTiled");
  return map;
}

}  // namespace

CUtensorMap row_map(const void* address, size_t element_bytes, int64_t rows, int64_t channels, int box_rows,
                    int box_channels) {
  return encoded<2>(element_bytes == 2 ? CU_TENSOR_MAP_DATA_TYPE_UINT16 : CU_TENSOR_MAP_DATA_TYPE_UINT32, address,
                    {static_cast<cuuint64_t>(channels), static_cast<cuuint64_t>(rows)},
                    {static_cast<cuuint64_t>(channels) * element_bytes},
                    {static_cast<cuuint32_t>(box_channels), static_cast<cuuint32_t>(box_rows)});
}

CUtensorMap word_map(const void* address, const WordTensor& tensor) {
  cuuint64_t sizes[3], strides[2];
  cuuint32_t box[3];
  for (int i = 0; i < 3; ++i) {
    sizes[i] = static_cast<cuuint64_t>(tensor.sizes[i]);
    box[i] = static_cast<cuuint32_t>(tensor.box[i]);
  }
  for (int i = 0; i < 2; ++i) strides[i] = static_cast<cuuint64_t>(tensor.strides[i]);
  return encoded<3>(CU_TENSOR_MAP_DATA_TYPE_UINT64, address, sizes, strides, box);
}

}  // namespace iabn::kernels::cuda
