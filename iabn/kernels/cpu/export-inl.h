// Last part of every *_kernels.cpp: turns its add_kernels<T>(Primitives<T>&), compiled once per target, into one
// function that fills the table of a given instruction set. Include after HWY_AFTER_NAMESPACE, inside HWY_ONCE.

namespace iabn::kernels::cpu {
namespace {

bool add_kernels_of(PrimitiveTable& table) {
  const auto add_all = [&](auto&& add) {
    add(table.of_double);
    add(table.of_float);
    add(table.of_half);
    add(table.of_bfloat16);
    return true;
  };
  switch (table.instruction_set) {
    case InstructionSet::kBaseline:
      return add_all([](auto& primitives) { HWY_STATIC_DISPATCH(add_kernels)(primitives); });
    case InstructionSet::kSSE4:
#if (HWY_TARGETS & HWY_SSE4) && HWY_STATIC_TARGET != HWY_SSE4
      return add_all([](auto& primitives) { N_SSE4::add_kernels(primitives); });
#else
      return false;
#endif
    case InstructionSet::kAVX2:
#if (HWY_TARGETS & HWY_AVX2) && HWY_STATIC_TARGET != HWY_AVX2
      return add_all([](auto& primitives) { N_AVX2::add_kernels(primitives); });
#else
      return false;
#endif
    case InstructionSet::kAVX512:
#if (HWY_TARGETS & HWY_AVX3) && HWY_STATIC_TARGET != HWY_AVX3
      return add_all([](auto& primitives) { N_AVX3::add_kernels(primitives); });
#else
      return false;
#endif
  }
  return false;
}

}  // namespace
}  // namespace iabn::kernels::cpu
