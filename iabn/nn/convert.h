#pragma once

// BatchNorm + activation to InPlaceABN and back, keeping the weights.

#include <memory>
#include <string>

#include <torch/nn/modules/batchnorm.h>

#include "iabn/nn/abn.h"

namespace iabn::nn {

/// What the conversion of one BatchNorm + activation gave.
struct Conversion {
  std::shared_ptr<NormActImpl> layer;  ///< InPlaceABN, or ABN where in-place storage would lose gradients
  bool in_place = true;
  std::string reason;  ///< empty where in_place; otherwise what stood against it
};

/// Channels whose x_hat could not be recovered well enough from z stored as `dtype`: relative rms error above 0.1
/// (docs/design/1-maths.md, "Small gamma"); gamma = 0 always counts.
int64_t unsafe_channels(const NormActImpl& layer, torch::Dtype dtype);

/// Options of a torch::nn::BatchNorm*d layer with an activation behind it.
ABNOptions abn_options(const torch::nn::BatchNormOptions& options, const std::string& activation,
                       double activation_param);

/// Copies weight, bias, running statistics, training mode and requires_grad. `from` and `to` are any of BatchNorm*d,
/// ABN, InPlaceABN with equal num_features; legacy gamma becomes the signed value it stands for.
void copy_norm(const torch::nn::Module& from, torch::nn::Module& to, GammaMode from_gamma = GammaMode::kSigned,
               double from_eps = 0);

/// `batch_norm` is a holder (torch::nn::BatchNorm1d, 2d or 3d). `activation_dtype` is the dtype that the activations
/// will have in training. relu and slopes or alphas that are not above 0 give an ABN, as do unsafe channels.
Conversion to_inplace_abn_impl(const ABNOptions& options, const torch::nn::Module& batch_norm,
                               torch::Dtype activation_dtype);
template <class BatchNorm>
Conversion to_inplace_abn(const BatchNorm& batch_norm, const std::string& activation, double activation_param,
                          torch::Dtype activation_dtype) {
  return to_inplace_abn_impl(abn_options(batch_norm->options, activation, activation_param), *batch_norm,
                             activation_dtype);
}

/// The BatchNorm (holder type BatchNorm) of a layer; the activation behind it is layer.options.activation().
template <class BatchNorm>
BatchNorm to_batch_norm(const NormActImpl& layer) {
  BatchNorm batch_norm(torch::nn::BatchNormOptions(layer.options.num_features())
                           .eps(layer.options.eps())
                           .momentum(layer.options.momentum())
                           .affine(layer.options.affine())
                           .track_running_stats(layer.options.track_running_stats()));
  copy_norm(layer, *batch_norm, layer.options.gamma(), layer.options.eps());
  return batch_norm;
}

}  // namespace iabn::nn
