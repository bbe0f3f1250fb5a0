#pragma once

// Aligned vectors of storage elements: one load or store instruction of up to 16 bytes, converted to the accumulation
// type in registers. 16-bit results round to nearest even, in pairs where the vector has pairs.

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstring>

#include "iabn/kernels/kernels.h"

namespace iabn::kernels::cuda {

template <int kBytes>
struct Word;
template <>
struct Word<2> {
  using type = unsigned short;
};
template <>
struct Word<4> {
  using type = unsigned int;
};
template <>
struct Word<8> {
  using type = uint2;
};
template <>
struct Word<16> {
  using type = uint4;
};

template <class T, int kWidth>
struct Vector {
  using A = accumulate_t<T>;
  using W = typename Word<kWidth* static_cast<int>(sizeof(T))>::type;

  W word;

  /// An ordinary load: x and d_z may be overwritten by the same thread later, which rules out the read-only path.
  static __device__ __forceinline__ Vector load(const T* p) { return {*reinterpret_cast<const W*>(p)}; }
  /// Results are first to leave the L2, so that input still to be read stays.
  __device__ __forceinline__ void store(T* p) const { __stcs(reinterpret_cast<W*>(p), word); }

  __device__ __forceinline__ void unpack(A (&values)[kWidth]) const {
    if constexpr (sizeof(T) == 2 && kWidth >= 2) {
      unsigned int pairs[kWidth / 2];
      memcpy(pairs, &word, sizeof(word));
#pragma unroll
      for (int j = 0; j < kWidth / 2; ++j) unpack_pair(pairs[j], values[2 * j], values[2 * j + 1], T{});
    } else {
      T elements[kWidth];
      memcpy(elements, &word, sizeof(word));
#pragma unroll
      for (int j = 0; j < kWidth; ++j) values[j] = static_cast<A>(elements[j]);
    }
  }

  static __device__ __forceinline__ Vector pack(const A (&values)[kWidth]) {
    Vector result;
    if constexpr (sizeof(T) == 2 && kWidth >= 2) {
      unsigned int pairs[kWidth / 2];
#pragma unroll
      for (int j = 0; j < kWidth / 2; ++j) pairs[j] = pack_pair(values[2 * j], values[2 * j + 1], T{});
      memcpy(&result.word, pairs, sizeof(pairs));
    } else {
      T elements[kWidth];
#pragma unroll
      for (int j = 0; j < kWidth; ++j) elements[j] = static_cast<T>(values[j]);
      memcpy(&result.word, elements, sizeof(elements));
    }
    return result;
  }

 private:
  static __device__ __forceinline__ void unpack_pair(unsigned int pair, float& low, float& high, Half) {
    const float2 both = __half22float2(*reinterpret_cast<const __half2*>(&pair));
    low = both.x;
    high = both.y;
  }
  static __device__ __forceinline__ void unpack_pair(unsigned int pair, float& low, float& high, BFloat16) {
    low = __uint_as_float(pair << 16);
    high = __uint_as_float(pair & 0xffff0000u);
  }
  static __device__ __forceinline__ unsigned int pack_pair(float low, float high, Half) {
    const __half2 pair = __floats2half2_rn(low, high);
    return *reinterpret_cast<const unsigned int*>(&pair);
  }
  static __device__ __forceinline__ unsigned int pack_pair(float low, float high, BFloat16) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    return *reinterpret_cast<const unsigned int*>(&pair);
  }
};

}  // namespace iabn::kernels::cuda
