// The choice of the instruction set. Each test below must name exactly the features that Highway compiles that target
// with (HWY_TARGET_STR_* in hwy/ops/set_macros-inl.h): one too few is an illegal instruction on some machine.

#include "iabn/kernels/cpu/instruction_sets.h"

#include <atomic>

namespace iabn::kernels::cpu {
namespace {

bool processor_has(InstructionSet set) {
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

std::vector<PrimitiveTable> make_tables() {
  struct Candidate {
    InstructionSet set;
    const char* name;
  };
  std::vector<PrimitiveTable> tables;
  for (const Candidate candidate :
       {Candidate{InstructionSet::kBaseline, "baseline"}, Candidate{InstructionSet::kSSE4, "sse4"},
        Candidate{InstructionSet::kAVX2, "avx2"}, Candidate{InstructionSet::kAVX512, "avx512"}}) {
    if (!processor_has(candidate.set)) continue;
    PrimitiveTable table{};
    table.instruction_set = candidate.set;
    table.name = candidate.name;
    if (add_statistics_kernels(table) && add_apply_kernels(table) && add_reduce_kernels(table) &&
        add_backward_kernels(table)) {
      tables.push_back(table);
    }
  }
  return tables;
}

std::atomic<const PrimitiveTable*> chosen_by_test{nullptr};

}  // namespace

const std::vector<PrimitiveTable>& supported_primitives() {
  static const std::vector<PrimitiveTable> tables = make_tables();
  return tables;
}

const PrimitiveTable& active_primitives() {
  const PrimitiveTable* chosen = chosen_by_test.load(std::memory_order_acquire);
  return chosen ? *chosen : supported_primitives().back();
}

void use_primitives(const PrimitiveTable* table) { chosen_by_test.store(table, std::memory_order_release); }

}  // namespace iabn::kernels::cpu
