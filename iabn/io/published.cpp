#include "iabn/io/published.h"

#include <array>

namespace iabn::io {
namespace {

constexpr std::array<PublishedModel, 10> kModels{{
    {"ResNeXt101, Std-BN",
     "resnext101",
     "standard",
     256,
     {77.04, 93.50},
     {78.72, 94.47},
     {77.92, 94.28},
     0,
     "448438885986d14db5e870b95f814f91"},
    {"ResNeXt101, InPlace-ABN",
     "resnext101",
     "inplace",
     512,
     {78.08, 93.79},
     {79.52, 94.66},
     {79.38, 94.67},
     0,
     "3b7a221cbc076410eb12c8dd361b7e4e"},
    {"ResNeXt152, InPlace-ABN",
     "resnext152",
     "inplace",
     256,
     {78.28, 94.04},
     {79.73, 94.82},
     {79.56, 94.67},
     0,
     "2c8d572587961ed74611d534c5b2e9ce"},
    {"WideResNet38, InPlace-ABN",
     "wider_resnet38",
     "inplace",
     256,
     {79.72, 94.78},
     {81.03, 95.43},
     {80.69, 95.27},
     0,
     "1c085ab70b789cc1d6c1594f7a761007"},
    {"ResNeXt101, InPlace-ABN sync",
     "resnext101",
     "sync",
     256,
     {77.70, 93.78},
     {79.18, 94.60},
     {78.98, 94.56},
     0,
     "0a85a21847b15e5a242e17bf3b753849"},
    {"DenseNet264, InPlace-ABN",
     "densenet264",
     "inplace",
     256,
     {78.57, 94.17},
     {79.72, 94.93},
     {79.49, 94.89},
     0,
     "0b413d67b725619441d0646d663865bf"},
    {"ResNet50v1, InPlace-ABN sync",
     "resnet50",
     "sync",
     512,
     {75.53, 92.59},
     {77.04, 93.57},
     {76.60, 93.49},
     0,
     "2522ca639f7fdfd7c0089ba1f5f6c2e8"},
    {"ResNet34v1, InPlace-ABN sync",
     "resnet34",
     "sync",
     512,
     {73.27, 91.34},
     {75.19, 92.66},
     {74.87, 92.42},
     0,
     "61515c1484911c3cc753d405131e1dda"},
    {"ResNet101v1, InPlace-ABN sync",
     "resnet101",
     "sync",
     512,
     {77.07, 93.45},
     {78.58, 94.40},
     {78.25, 94.19},
     0,
     "1552ae0f3d610108df702135f56bd27b"},
    {"WideResNet38 + DeepLab3 (Mapillary Vistas)",
     "wider_resnet38_a2",
     "sync",
     0,
     {},
     {},
     {},
     53.42,
     "913f78486a34aa1577a7cd295e8a33bb"},
}};

}  // namespace

std::span<const PublishedModel> published_models() { return kModels; }

const PublishedModel* find_published_model(std::string_view md5) {
  for (const PublishedModel& model : kModels) {
    if (model.md5 == md5) return &model;
  }
  return nullptr;
}

}  // namespace iabn::io
