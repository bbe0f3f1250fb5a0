#include "iabn/nn/pooling.h"

#include <algorithm>
#include <vector>

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

namespace iabn::nn {

namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

bool is_channels_last(const Tensor& x) { return x.suggest_memory_format() == at::MemoryFormat::ChannelsLast; }

/// For d_x. PyTorch's backward operators want x, too, but for its sizes and layout alone: d_x has both and stands in.
Tensor empty_like_input(AutogradContext* ctx, const Tensor& d_y) {
  const bool channels_last = ctx->saved_data["channels_last"].toBool();
  return at::empty(
      ctx->saved_data["sizes"].toIntVector(),
      d_y.options().memory_format(channels_last ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous));
}

struct Window {
  int64_t kernel, stride, padding;
};

// Note [Byte offsets]
// PyTorch's index of an output's largest element is ih*W + iw. The byte is (ih - h0)*kernel + (iw - w0), with h0, w0
// the top left corner of the output's window, which may lie in the padding: h0 = oh*stride - padding. So
//   byte  = index + (index / W)*(kernel - W) - (h0*kernel + w0)
//   index = byte + (byte / kernel)*(W - kernel) + (h0*W + w0)

/// h0*rows + w0 of every output: [OH, OW], int64.
Tensor corners(const Tensor& output, const Window& window, int64_t rows) {
  const auto options = output.options().dtype(at::kLong);
  const auto starts = [&](int64_t size) { return at::arange(size, options).mul_(window.stride).sub_(window.padding); };
  return starts(output.size(2)).mul_(rows).unsqueeze(1) + starts(output.size(3));
}

Tensor to_bytes(Tensor indices, int64_t width, const Window& window) {
  const Tensor corner = corners(indices, window, window.kernel);
  indices.add_(indices.div(width, "floor"), window.kernel - width).sub_(corner);
  return indices.to(at::kByte);
}

Tensor to_indices(const Tensor& bytes, int64_t width, const Window& window) {
  Tensor indices = at::add(corners(bytes, window, width), bytes.div(window.kernel, "floor"), width - window.kernel);
  return indices.add_(bytes);
}

/// Adds each window position's gradients in turn, in the order in which PyTorch visits the outputs on the CPU. Several
/// times slower than PyTorch's operator, which says of itself on CUDA that the order of its sums is not fixed.
Tensor backward_by_position(const Tensor& d_y, const Tensor& bytes, at::IntArrayRef sizes, const Window& window) {
  const int64_t height = sizes[2], width = sizes[3], pad = window.padding;
  const auto padded = [&](int64_t size, int64_t outputs) {
    return std::max(size + pad, (outputs - 1) * window.stride + window.kernel);
  };
  Tensor d_x = at::zeros({sizes[0], sizes[1], padded(height, d_y.size(2)), padded(width, d_y.size(3))},
                         d_y.options().memory_format(d_y.suggest_memory_format()));
  for (int64_t place = window.kernel * window.kernel - 1; place >= 0; --place) {
    const auto rows = [&](const Tensor& t, int64_t dim, int64_t start) {
      return t.slice(dim, start, start + (d_y.size(dim) - 1) * window.stride + 1, window.stride);
    };
    rows(rows(d_x, 2, place / window.kernel), 3, place % window.kernel).add_(d_y.masked_fill(bytes != place, 0));
  }
  return d_x.slice(2, pad, pad + height).slice(3, pad, pad + width);
}

class MaxPoolFunction : public torch::autograd::Function<MaxPoolFunction> {
 public:
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Window& window) {
    at::AutoDispatchBelowADInplaceOrView guard;
    auto [y, indices] = at::max_pool2d_with_indices(x, window.kernel, window.stride, window.padding);
    ctx->save_for_backward({to_bytes(std::move(indices), x.size(3), window)});
    ctx->saved_data["sizes"] = x.sizes();
    ctx->saved_data["channels_last"] = is_channels_last(x);
    ctx->saved_data["window"] = std::vector<int64_t>{window.kernel, window.stride, window.padding};
    return y;
  }

  static variable_list backward(AutogradContext* ctx, variable_list d_outputs) {
    const Tensor bytes = ctx->get_saved_variables()[0], &d_y = d_outputs[0];
    const auto sizes = ctx->saved_data["sizes"].toIntVector(), shape = ctx->saved_data["window"].toIntVector();
    const Window window{shape[0], shape[1], shape[2]};
    if (at::GradMode::is_enabled()) {
      const Tensor indices = to_indices(bytes, sizes[3], window);
      const Tensor d_x = at::zeros({sizes[0], sizes[1], sizes[2] * sizes[3]}, d_y.options());
      return {d_x.scatter_add(2, indices.flatten(2), d_y.flatten(2)).view(sizes), Tensor()};
    }
    if (at::globalContext().deterministicAlgorithms()) {
      return {backward_by_position(d_y, bytes, sizes, window), Tensor()};
    }
    Tensor d_x = empty_like_input(ctx, d_y);
    at::max_pool2d_with_indices_backward_out(d_x, d_y, d_x, window.kernel, window.stride, window.padding,
                                             /*dilation=*/1, /*ceil_mode=*/false, to_indices(bytes, sizes[3], window));
    return {d_x, Tensor()};
  }
};

class AvgPoolFunction : public torch::autograd::Function<AvgPoolFunction> {
 public:
  static Tensor forward(AutogradContext* ctx, const Tensor& x, int64_t kernel) {
    at::AutoDispatchBelowADInplaceOrView guard;
    ctx->saved_data["sizes"] = x.sizes();
    ctx->saved_data["channels_last"] = is_channels_last(x);
    ctx->saved_data["kernel"] = kernel;
    return at::avg_pool2d(x, kernel);
  }

  static variable_list backward(AutogradContext* ctx, variable_list d_outputs) {
    const Tensor& d_y = d_outputs[0];
    const int64_t kernel = ctx->saved_data["kernel"].toInt();
    Tensor d_x = empty_like_input(ctx, d_y);
    if (at::GradMode::is_enabled()) return {pool_backward(d_y, d_x, kernel), Tensor()};
    at::avg_pool2d_backward_out(d_x, d_y, d_x, kernel, kernel, /*padding=*/0, /*ceil_mode=*/false,
                                /*count_include_pad=*/true, /*divisor_override=*/std::nullopt);
    return {d_x, Tensor()};
  }

 private:
  static Tensor pool_backward(const Tensor& d_y, const Tensor& x, int64_t kernel) {
    return at::avg_pool2d_backward(d_y, x, kernel, kernel, 0, false, true, std::nullopt);
  }
};

}  // namespace

Tensor avg_pool2d(Tensor x, int64_t kernel) {
  TORCH_CHECK(x.dim() == 4, "avg_pool2d: x must have shape [N, C, H, W], got ", x.sizes());
  if (!x.requires_grad() || !at::GradMode::is_enabled()) return at::avg_pool2d(x, kernel);
  return AvgPoolFunction::apply(x, kernel);
}

Tensor max_pool2d(Tensor x, int64_t kernel, int64_t stride, int64_t padding) {
  TORCH_CHECK(x.dim() == 4, "max_pool2d: x must have shape [N, C, H, W], got ", x.sizes());
  TORCH_CHECK(kernel >= 1 && kernel <= 16, "max_pool2d: kernel must be 1 to 16, so that a place in the window fits ",
              "into a byte, got ", kernel);
  if (!x.requires_grad() || !at::GradMode::is_enabled()) return at::max_pool2d(x, kernel, stride, padding);
  return MaxPoolFunction::apply(x, Window{kernel, stride, padding});
}

}  // namespace iabn::nn
