#pragma once

// Which instruction sets files that go through Highway's foreach_target.h are compiled for, and whether this processor
// has them. Highway is used header-only: its own dispatch would need libhwy.so. Include before any Highway header.

// Left out because they bring nothing here and double compile time (SSSE3, AVX3_DL), or because their vectors cannot be
// members of a struct (SVE, RVV).
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_AVX3_DL | HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128 | HWY_RVV)

// Its debug assertions, on under sanitizers, would need libhwy.so as well.
#define HWY_IS_DEBUG_BUILD 0

namespace iabn::kernels::cpu {

enum class InstructionSet { kBaseline, kSSE4, kAVX2, kAVX512 };

/// Each test must name exactly the features that Highway compiles that target with (HWY_TARGET_STR_* in
/// hwy/ops/set_macros-inl.h): one too few is an illegal instruction on some machine.
inline bool processor_has(InstructionSet set) {
  if (set == InstructionSet::kBaseline) return true;
#if (defined(__x86_64__) || defined(__i386__)) && (defined(__GNUC__) || defined(__clang__))
  // These read the operating system's saved-state mask as well: AVX-512 is reported only where it is switched on.
  __builtin_cpu_init();
  const bool sse4 = __builtin_cpu_supports("ssse3") && __builtin_cpu_supports("sse4.1") &&
                    __builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("pclmul") &&
                    __builtin_cpu_supports("aes");
  if (set == InstructionSet::kSSE4) return sse4;
  const bool avx2 = sse4 && __builtin_cpu_supports("avx") && __builtin_cpu_supports("avx2") &&
                    __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("fma") &&
                    __builtin_cpu_supports("f16c");
  if (set == InstructionSet::kAVX2) return avx2;
  return avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw");
#else
  return false;
#endif
}

}  // namespace iabn::kernels::cpu
