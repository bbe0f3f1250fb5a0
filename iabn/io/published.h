#pragma once

// The models that the authors of In-Place Activated BatchNorm published, with the results that they report. The files
// are theirs, under licences of their own; here are only their names, sums and figures.

#include <span>
#include <string_view>

#include "iabn/io/gamma.h"

namespace iabn::io {

/// Percent.
struct Accuracy {
  double top1 = 0, top5 = 0;
};

struct PublishedModel {
  std::string_view name;                    // as the authors write it
  std::string_view arch;                    // as in a configuration's network.arch
  std::string_view bn_mode;                 // as in a configuration's network.bn_mode
  int batch_size;                           // of the training
  Accuracy crop224, ten_crops224, crop320;  // ImageNet validation; 0 for the segmentation model
  double vistas_miou;                       // Mapillary Vistas, test; 0 for the others
  std::string_view md5;

  /// Of its file: legacy for in-place layers.
  Gamma gamma() const { return original_gamma(bn_mode); }
};

std::span<const PublishedModel> published_models();

/// Null where the sum (32 lower-case digits) is none of theirs.
const PublishedModel* find_published_model(std::string_view md5);

}  // namespace iabn::io
