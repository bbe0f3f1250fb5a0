#pragma once

// Argument checks of the operators, once, before anything is dispatched or written. Every message names the operator,
// the argument, what was expected, what came, and what to do. Failures throw std::runtime_error (RuntimeError in
// Python).

#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include "iabn/activation.h"
#include "iabn/kernels/kernels.h"

namespace iabn::ops {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using OptionalTensor = std::optional<Tensor>;

/// Throws "<op>: <parts...>".
template <class... Parts>
[[noreturn]] void fail(const char* op, const Parts&... parts) {
  std::ostringstream message;
  message << op << ": ";
  ((message << parts), ...);
  throw std::runtime_error(message.str());
}

std::string shape_string(const Tensor& tensor);
const char* dtype_string(ScalarType dtype);

/// float64 for float64 activations, float32 for all others.
ScalarType accumulate_dtype(ScalarType dtype);

/// x, z or d_z: floating point, [N, C, ...] with at least one channel.
void check_activation_tensor(const char* op, const char* name, const Tensor& tensor);
/// Nothing that an in-place operator could not write: no element may stand for two.
void check_writable(const char* op, const char* name, const Tensor& tensor);
/// More than one value per channel.
void check_enough_values(const char* op, const Tensor& x);
/// `other` has z's shape, dtype and device.
void check_like(const char* op, const char* name, const Tensor& other, const char* z_name, const Tensor& z);
/// A per-channel tensor [C] on x's device in the accumulation dtype or x's.
void check_channels(const char* op, const char* name, const Tensor& tensor, const Tensor& x);
void check_channels(const char* op, const char* name, const OptionalTensor& tensor, const Tensor& x);
/// num_batches_tracked: one int64 on x's device.
void check_counter(const char* op, const OptionalTensor& counter, const Tensor& x);
/// Running statistics [C] for x [N, C, ...], together or neither; momentum in [0, 1], or none, which needs the counter.
void check_running(const char* op, const OptionalTensor& running_mean, const OptionalTensor& running_var,
                   const OptionalTensor& num_batches_tracked, std::optional<double> momentum, const Tensor& x);
/// Packed statistics of processes: contiguous [3*W, C] with at least one process and channel.
void check_gathered(const char* op, const Tensor& gathered);
/// Sums of backward, contiguous [4, channels]; the number of elements per channel behind them, one value beside them.
void check_sums(const char* op, const char* name, const Tensor& sums, int64_t channels, ScalarType dtype,
                const Tensor& x);
void check_count(const char* op, const Tensor& count, const Tensor& sums);
/// eps finite and not negative.
void check_eps(const char* op, double eps);
/// `activation` known, its parameter finite. invertible: also not relu, and the parameter above 0.
ActivationSpec check_activation(const char* op, int64_t activation, double param, bool invertible);
/// For backward with frozen statistics: relu and slope 0 are exact there, a negative slope or alpha is not.
void check_frozen_activation(const char* op, const ActivationSpec& spec);
kernels::GammaMode check_gamma(const char* op, int64_t gamma);

/// Calls f with a value of the C++ type of x's elements.
template <class F>
decltype(auto) with_storage_type(const Tensor& x, F&& f) {
  switch (x.scalar_type()) {
    case ScalarType::Double:
      return f(double{});
    case ScalarType::Float:
      return f(float{});
    case ScalarType::Half:
      return f(kernels::Half{});
    case ScalarType::BFloat16:
      return f(kernels::BFloat16{});
    default:
      throw std::logic_error("iabn: with_storage_type: dtype was not checked");
  }
}

}  // namespace iabn::ops
