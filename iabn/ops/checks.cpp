#include "iabn/ops/checks.h"

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

namespace iabn::ops {

namespace {

std::string device_string(const Tensor& tensor) {
  return tensor.is_cpu() ? "cpu" : "cuda:" + std::to_string(tensor.get_device_index());
}

bool same_device(const Tensor& a, const Tensor& b) {
  return a.is_cpu() == b.is_cpu() && (a.is_cpu() || a.get_device_index() == b.get_device_index());
}

void check_same_device(const char* op, const char* name, const Tensor& tensor, const Tensor& x) {
  if (!same_device(tensor, x)) {
    fail(op, name, " must be on ", device_string(x), " (the device of x), got ", device_string(tensor),
         ": move the layer, e.g. layer.to(x.device)");
  }
}

}  // namespace

std::string shape_string(const Tensor& tensor) {
  std::string text = "[";
  for (int64_t d = 0; d < tensor.dim(); ++d) text += (d ? ", " : "") + std::to_string(tensor.size(d));
  return text + "]";
}

const char* dtype_string(ScalarType dtype) {
  switch (dtype) {
    case ScalarType::Double:
      return "float64";
    case ScalarType::Float:
      return "float32";
    case ScalarType::Half:
      return "float16";
    case ScalarType::BFloat16:
      return "bfloat16";
    case ScalarType::Byte:
      return "uint8";
    case ScalarType::Char:
      return "int8";
    case ScalarType::Short:
      return "int16";
    case ScalarType::Int:
      return "int32";
    case ScalarType::Long:
      return "int64";
    case ScalarType::Bool:
      return "bool";
    case ScalarType::ComplexHalf:
      return "complex32";
    case ScalarType::ComplexFloat:
      return "complex64";
    case ScalarType::ComplexDouble:
      return "complex128";
    default:
      return "another dtype";
  }
}

ScalarType accumulate_dtype(ScalarType dtype) {
  return dtype == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

void check_activation_tensor(const char* op, const char* name, const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case ScalarType::Double:
    case ScalarType::Float:
    case ScalarType::Half:
    case ScalarType::BFloat16:
      break;
    default:
      fail(op, name, " must be float32, float64, float16 or bfloat16, got ", dtype_string(tensor.scalar_type()),
           ": convert it first, e.g. ", name, ".to(torch.float32)");
  }
  if (tensor.dim() < 2) {
    fail(op, name, " must have shape [N, C, ...] with at least 2 dimensions, got ", shape_string(tensor),
         ": add the batch dimension, e.g. ", name, ".unsqueeze(0)");
  }
  if (tensor.size(1) == 0) fail(op, name, " must have at least one channel, got shape ", shape_string(tensor));
}

void check_writable(const char* op, const char* name, const Tensor& tensor) {
  std::vector<std::pair<int64_t, int64_t>> dims;  // (stride, size), dimensions that move at all
  for (int64_t d = 0; d < tensor.dim(); ++d) {
    if (tensor.size(d) == 0) return;
    if (tensor.size(d) > 1) dims.emplace_back(tensor.stride(d), tensor.size(d));
  }
  std::sort(dims.begin(), dims.end());
  int64_t reach = 1;  // smallest stride that cannot meet an element of the inner dimensions
  for (const auto& [stride, size] : dims) {
    if (stride < reach) {
      fail(op, name, " of shape ", shape_string(tensor),
           " overlaps itself in memory (an expanded tensor?) and cannot be overwritten: pass ", name,
           ".clone(memory_format=torch.contiguous_format)");
    }
    reach = stride * (size - 1) + reach;
  }
}

void check_enough_values(const char* op, const Tensor& x) {
  const int64_t count = x.numel() / x.size(1);
  if (count > 1) return;
  fail(op, "training needs more than 1 value per channel, got ", count, " (x has shape ", shape_string(x),
       "): use a larger batch, or evaluation mode");
}

void check_like(const char* op, const char* name, const Tensor& other, const char* z_name, const Tensor& z) {
  bool same = other.dim() == z.dim();
  for (int64_t d = 0; same && d < z.dim(); ++d) same = other.size(d) == z.size(d);
  if (!same) {
    fail(op, name, " must have shape ", shape_string(z), " (that of ", z_name, "), got ", shape_string(other));
  }
  if (other.scalar_type() != z.scalar_type()) {
    fail(op, name, " must be ", dtype_string(z.scalar_type()), " (the dtype of ", z_name, "), got ",
         dtype_string(other.scalar_type()), ": convert it first");
  }
  check_same_device(op, name, other, z);
}

void check_channels(const char* op, const char* name, const Tensor& tensor, const Tensor& x) {
  const int64_t channels = x.size(1);
  if (tensor.dim() != 1 || tensor.size(0) != channels) {
    fail(op, name, " must have shape [", channels, "] (channels of x), got ", shape_string(tensor),
         ": create the layer with num_features = ", channels);
  }
  const ScalarType dtype = tensor.scalar_type();
  const ScalarType accumulate = accumulate_dtype(x.scalar_type());
  if (dtype != accumulate && dtype != x.scalar_type()) {
    fail(op, name, " must be ", dtype_string(accumulate),
         accumulate == x.scalar_type() ? std::string() : std::string(" or ") + dtype_string(x.scalar_type()), " for ",
         dtype_string(x.scalar_type()), " x, got ", dtype_string(dtype), ": convert the layer or x");
  }
  check_same_device(op, name, tensor, x);
}

void check_channels(const char* op, const char* name, const OptionalTensor& tensor, const Tensor& x) {
  if (tensor) check_channels(op, name, *tensor, x);
}

void check_counter(const char* op, const OptionalTensor& counter, const Tensor& x) {
  if (!counter) return;
  if (counter->scalar_type() != ScalarType::Long || counter->numel() != 1) {
    fail(op, "num_batches_tracked must be one int64, got ", dtype_string(counter->scalar_type()), " of shape ",
         shape_string(*counter));
  }
  check_same_device(op, "num_batches_tracked", *counter, x);
}

void check_running(const char* op, const OptionalTensor& running_mean, const OptionalTensor& running_var,
                   const OptionalTensor& num_batches_tracked, std::optional<double> momentum, const Tensor& x) {
  check_channels(op, "running_mean", running_mean, x);
  check_channels(op, "running_var", running_var, x);
  check_counter(op, num_batches_tracked, x);
  if (running_mean.has_value() != running_var.has_value()) {
    fail(op, "running_mean and running_var must be given together, or neither");
  }
  if (momentum && !(*momentum >= 0 && *momentum <= 1)) {
    fail(op, "momentum must be between 0 and 1, or None for a cumulative average, got ", *momentum);
  }
  if (!momentum && running_mean && !num_batches_tracked) {
    fail(op, "momentum None (cumulative average) needs num_batches_tracked");
  }
}

void check_gathered(const char* op, const Tensor& gathered) {
  const ScalarType dtype = gathered.scalar_type();
  if (gathered.dim() == 2 && gathered.size(0) > 0 && gathered.size(0) % 3 == 0 && gathered.size(1) > 0 &&
      gathered.is_contiguous() && (dtype == ScalarType::Float || dtype == ScalarType::Double)) {
    return;
  }
  fail(op, "gathered must be contiguous float32 or float64 of shape [3*processes, C], got ", dtype_string(dtype),
       " of shape ", shape_string(gathered));
}

void check_sums(const char* op, const char* name, const Tensor& sums, int64_t channels, ScalarType dtype,
                const Tensor& x) {
  if (sums.dim() == 2 && sums.size(0) == 4 && sums.size(1) == channels && sums.is_contiguous() &&
      sums.scalar_type() == dtype) {
    return check_same_device(op, name, sums, x);
  }
  fail(op, name, " must be contiguous ", dtype_string(dtype), " of shape [4, ", channels, "], got ",
       dtype_string(sums.scalar_type()), " of shape ", shape_string(sums));
}

void check_count(const char* op, const Tensor& count, const Tensor& sums) {
  if (count.numel() != 1 || count.scalar_type() != sums.scalar_type()) {
    fail(op, "count must be one ", dtype_string(sums.scalar_type()), ", got ", dtype_string(count.scalar_type()),
         " of shape ", shape_string(count));
  }
  check_same_device(op, "count", count, sums);
}

void check_eps(const char* op, double eps) {
  if (!(eps >= 0) || std::isinf(eps)) fail(op, "eps must be finite and not negative, got ", eps);
}

ActivationSpec check_activation(const char* op, int64_t activation, double param, bool invertible) {
  const ActivationSpec spec{static_cast<Activation>(activation), param};
  const bool leaky = spec.kind == Activation::kLeakyReLU;
  const bool elu = spec.kind == Activation::kELU;
  if (!leaky && !elu && spec.kind != Activation::kIdentity && spec.kind != Activation::kReLU) {
    fail(op, "activation must be 0 (identity), 1 (leaky_relu), 2 (elu) or 3 (relu), got ", activation);
  }
  if (invertible && spec.kind == Activation::kReLU) {
    fail(op,
         "relu cannot be inverted, so it cannot be trained in place: use leaky_relu with a slope above 0, or ABN "
         "(BatchNorm, then relu, not in place)");
  }
  if (!leaky && !elu) return spec;
  const char* name = leaky ? "the slope of leaky_relu" : "alpha of elu";
  if (!std::isfinite(static_cast<float>(param))) fail(op, name, " must be finite in float32, got ", param);
  if (invertible && !(param > 0)) {
    fail(op, name, " must be above 0 in training (the activation has to be inverted), got ", param,
         leaky ? ": use e.g. 0.01, or ABN (not in place) for an exact relu" : ": use e.g. 1.0");
  }
  // The inverse multiplies by 1/param in float32.
  if (invertible && !std::isnormal(static_cast<float>(1 / param))) {
    fail(op, name, " is too close to 0 to be inverted in float32, got ", param, ": use e.g. ", leaky ? "0.01" : "1.0");
  }
  return spec;
}

void check_frozen_activation(const char* op, const ActivationSpec& spec) {
  const bool elu = spec.kind == Activation::kELU;
  if (elu ? spec.param > 0 : (spec.kind != Activation::kLeakyReLU || spec.param >= 0)) return;
  fail(op, elu ? "alpha of elu must be above 0" : "the slope of leaky_relu must not be below 0",
       " where gradients are wanted, got ", spec.param, ": run without gradients, or use ABN (not in place)");
}

kernels::GammaMode check_gamma(const char* op, int64_t gamma) {
  if (gamma != 0 && gamma != 1) fail(op, "gamma must be 0 (signed) or 1 (legacy), got ", gamma);
  return static_cast<kernels::GammaMode>(gamma);
}

}  // namespace iabn::ops
