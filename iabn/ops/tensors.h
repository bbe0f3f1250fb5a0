#pragma once

// Allocation and layout of tensors on the stable ABI, for the operators.

#include <cstdint>
#include <initializer_list>
#include <optional>

#include <torch/csrc/stable/tensor.h>

#include "iabn/kernels/view.h"
#include "iabn/ops/checks.h"

namespace iabn::ops {

/// Uninitialised contiguous tensor on x's device. Goes through the C shim: the dispatcher costs four times as much.
Tensor empty_small(const Tensor& x, std::initializer_list<int64_t> sizes, ScalarType dtype);

/// N, C, S of x [N, C, ...] with its dense layout, or nothing where it has holes or another order of dimensions.
std::optional<kernels::Shape> dense_shape(const Tensor& x);

/// Uninitialised tensor of x's sizes and dtype: x's strides if it is dense, else the nearest dense layout
/// (channels-last where channels are adjacent in memory, contiguous otherwise).
Tensor empty_dense(const Tensor& x);

/// x itself if dense, else a dense copy.
Tensor to_dense(const Tensor& x);

/// True where both have the same strides in every dimension that moves.
bool same_strides(const Tensor& a, const Tensor& b);

}  // namespace iabn::ops
