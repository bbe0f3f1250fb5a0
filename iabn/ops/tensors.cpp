#include "iabn/ops/tensors.h"

#include <algorithm>
#include <vector>

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/ops.h>

namespace iabn::ops {

namespace {

using kernels::Layout;
using kernels::Shape;

std::vector<int64_t> dense_strides(const Tensor& x, Layout layout) {
  const int64_t dims = x.dim();
  std::vector<int64_t> strides(dims);
  int64_t next = 1;
  if (layout == Layout::kChannelsLast) {
    strides[1] = 1;
    next = x.size(1);
  }
  for (int64_t d = dims - 1; d >= 0; --d) {
    if (d == 1 && layout == Layout::kChannelsLast) continue;
    strides[d] = next;
    next *= std::max<int64_t>(1, x.size(d));  // PyTorch's strides of an empty tensor
  }
  return strides;
}

bool has_strides(const Tensor& x, const std::vector<int64_t>& strides) {
  for (int64_t d = 0; d < x.dim(); ++d) {
    if (x.size(d) > 1 && x.stride(d) != strides[d]) return false;
  }
  return true;
}

Tensor empty_strided(const Tensor& x, const int64_t* sizes, const int64_t* strides, int64_t dims, ScalarType dtype) {
  const int32_t device_type = x.is_cpu() ? aoti_torch_device_type_cpu() : aoti_torch_device_type_cuda();
  AtenTensorHandle handle = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(dims, sizes, strides, static_cast<int32_t>(dtype), device_type,
                                                  x.is_cpu() ? 0 : x.get_device_index(), &handle));
  return Tensor(handle);
}

}  // namespace

Tensor empty_small(const Tensor& x, std::initializer_list<int64_t> sizes, ScalarType dtype) {
  std::vector<int64_t> strides(sizes.size());
  int64_t next = 1;
  for (size_t d = sizes.size(); d-- > 0;) {
    strides[d] = next;
    next *= sizes.begin()[d];
  }
  return empty_strided(x, sizes.begin(), strides.data(), static_cast<int64_t>(sizes.size()), dtype);
}

std::optional<Shape> dense_shape(const Tensor& x) {
  const int64_t channels = x.size(1);
  Shape shape{x.size(0), channels, 1, Layout::kContiguous};
  for (int64_t d = 2; d < x.dim(); ++d) shape.s *= x.size(d);
  if (x.numel() == 0) return shape;
  // Where both layouts fit (S = 1, C = 1) the order of the tests picks the one whose inner loop is long.
  if (shape.s > 1 && has_strides(x, dense_strides(x, Layout::kContiguous))) return shape;
  shape.layout = Layout::kChannelsLast;
  if (has_strides(x, dense_strides(x, Layout::kChannelsLast))) return shape;
  return std::nullopt;
}

Tensor empty_dense(const Tensor& x) {
  const auto shape = dense_shape(x);
  const Layout layout =
      shape ? shape->layout : (x.size(1) > 1 && x.stride(1) == 1 ? Layout::kChannelsLast : Layout::kContiguous);
  const std::vector<int64_t> strides = dense_strides(x, layout);
  return empty_strided(x, x.sizes().data(), strides.data(), x.dim(), x.scalar_type());
}

Tensor to_dense(const Tensor& x) {
  if (dense_shape(x)) return x;
  Tensor copy = empty_dense(x);
  torch::stable::copy_(copy, x);
  return copy;
}

bool same_strides(const Tensor& a, const Tensor& b) {
  for (int64_t d = 0; d < a.dim(); ++d) {
    if (a.size(d) > 1 && a.stride(d) != b.stride(d)) return false;
  }
  return true;
}

}  // namespace iabn::ops
