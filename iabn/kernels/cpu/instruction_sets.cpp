// The choice of the instruction set.

#include "iabn/kernels/cpu/instruction_sets.h"

#include <atomic>

namespace iabn::kernels::cpu {
namespace {

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
