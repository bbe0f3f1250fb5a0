#pragma once

// Internal: what one instruction set provides, and the choice between them at run time.
//
// Every file *_kernels.cpp is compiled once per instruction set through Highway's foreach_target.h. What it exports
// are tables of plain function pointers (`Primitives`) over a piece of a tensor that one thread works on; everything
// above (partition, threads, merging) is ordinary code in forward.cpp and backward.cpp.

#include <cstdint>
#include <vector>

#include "iabn/kernels/cpu/processor.h"
#include "iabn/kernels/kernels.h"
#include "iabn/kernels/welford.h"

namespace iabn::kernels::cpu {

/// Part of one channel of a contiguous tensor: `count` runs of `length` elements, `stride` elements apart.
struct Segments {
  int64_t count = 0;
  int64_t length = 0;
  int64_t stride = 0;
};

/// Columns of a tile at most: what a tile keeps per column stays in the first-level cache.
inline constexpr int64_t kMaxTileColumns = 1024;

/// Part of a channels-last tensor: `rows` rows of `columns` neighbouring channels, `stride` elements apart.
struct Tile {
  int64_t rows = 0;
  int64_t columns = 0;
  int64_t stride = 0;
};

/// z = act((x - mean) * scale + shift): the mean goes first, so that a large mean costs nothing.
template <class A>
struct ApplyCoefficients {
  A mean, scale, shift;
};

struct BackwardForm {
  bool linear = true;       // d_x = a*d_y + b*y' + c; false: d_x = a*d_y (frozen statistics), b and c are not read
  bool past_cache = false;  // d_x is not read again soon: keep it out of the cache where alignment allows
};

/// Loops over one piece of a tensor. Pointers address the first element of the piece; unaligned ones are legal.
/// Arrays per channel are indexed by column; `sums` of a tile is [4][sums_stride].
template <class T>
struct Primitives {
  using A = accumulate_t<T>;
  using Spec = ActivationSpec;
  using Backward = BackwardCoefficients<A>;

  Welford<A> (*segment_statistics)(const T* x, const Segments&);
  void (*tile_statistics)(const T* x, const Tile&, A* mean, A* m2);

  void (*segment_apply)(T* x, const Segments&, const ApplyCoefficients<A>&, const Spec&);
  void (*tile_apply)(T* x, const Tile&, const A* mean, const A* scale, const A* shift, const Spec&);

  void (*segment_reduce)(const T* z, const T* d_z, const Segments&, A beta, const Spec&, A* sums);
  void (*tile_reduce)(const T* z, const T* d_z, const Tile&, const A* beta, const Spec&, A* sums, int64_t sums_stride);

  void (*segment_backward)(const T* z, const T* d_z, T* d_x, const Segments&, A beta, const Backward&, BackwardForm,
                           const Spec&);
  void (*tile_backward)(const T* z, const T* d_z, T* d_x, const Tile&, const A* beta, const A* a, const A* b,
                        const A* c, BackwardForm, const Spec&);
};

/// The primitives of one instruction set for every storage type.
struct PrimitiveTable {
  InstructionSet instruction_set = InstructionSet::kBaseline;
  const char* name = "";
  Primitives<double> of_double;
  Primitives<float> of_float;
  Primitives<Half> of_half;
  Primitives<BFloat16> of_bfloat16;

  template <class T>
  const Primitives<T>& get() const {
    if constexpr (std::is_same_v<T, double>) return of_double;
    if constexpr (std::is_same_v<T, float>) return of_float;
    if constexpr (std::is_same_v<T, Half>) return of_half;
    if constexpr (std::is_same_v<T, BFloat16>) return of_bfloat16;
  }
};

/// Tables that this processor can run, slowest first; never empty.
const std::vector<PrimitiveTable>& supported_primitives();

/// The table in use: the fastest supported one unless a test has chosen another.
const PrimitiveTable& active_primitives();

/// For tests: use this table (an element of supported_primitives()) from now on; null for the fastest.
void use_primitives(const PrimitiveTable* table);

// One per kernel file: writes its part of `table` for table.instruction_set, false where that set was not compiled.
bool add_statistics_kernels(PrimitiveTable& table);
bool add_apply_kernels(PrimitiveTable& table);
bool add_reduce_kernels(PrimitiveTable& table);
bool add_backward_kernels(PrimitiveTable& table);

}  // namespace iabn::kernels::cpu
