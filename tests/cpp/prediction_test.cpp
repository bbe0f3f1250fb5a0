// What the parts of a prediction refuse; their values are in tests/python/test_prediction.py and
// test_predict_values.py.

#include <gmock/gmock.h>

#include <torch/torch.h>

#include "iabn/models/network.h"
#include "iabn/segmentation/predictor.h"
#include "iabn/segmentation/render.h"
#include "iabn/segmentation/upsample.h"
#include "iabn/segmentation/write_png.h"

namespace iabn::segmentation {
namespace {

using testing::HasSubstr;

// Logits of a given shape, whatever the picture.
struct Constant : models::Network {
  explicit Constant(std::vector<int64_t> shape) : shape(std::move(shape)) { eval(); }
  torch::Tensor forward(torch::Tensor) override { return torch::zeros(shape); }
  std::vector<int64_t> shape;
};

template <class Error, class Function>
void expect_error(const Function& function, const char* text) {
  try {
    function();
    ADD_FAILURE() << "no error: " << text;
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr(text));
  }
}

TEST(Predictor, RefusesNetworksItCannotUse) {
  const data::Image picture = data::make_image(2, 3, 3);
  Constant many({1, 257, 2, 2}), vector({1, 5}), fine({1, 256, 1, 1});
  const auto run = [&](Constant& network) { return Predictor(network, {}, torch::kCPU)(picture); };
  expect_error<std::invalid_argument>([&] { run(many); }, "[1, classes, h, w] of at most 256 classes");
  expect_error<std::invalid_argument>([&] { run(vector); }, "[1, classes, h, w] of at most 256 classes");
  EXPECT_EQ(run(fine).labels.sizes(), torch::IntArrayRef({2, 3}));
  fine.train();
  expect_error<std::logic_error>([&] { run(fine); }, "the network must be in evaluation mode");
}

TEST(Predictor, RefusesPicturesItCannotUse) {
  Constant network({1, 2, 1, 1});
  const Predictor predictor(network, {}, torch::kCPU);
  expect_error<std::invalid_argument>([&] { predictor(data::make_image(2, 3, 1)); }, "must have 3 channels, got 1");
  PredictorOptions options;
  options.longest_side = 1 << 20;
  const Predictor large(network, options, torch::kCPU);
  expect_error<std::runtime_error>([&] { large(data::make_image(2, 3, 3)); }, "scaled to a longest side of 1048576");
  options.mean = {0.5};
  expect_error<std::invalid_argument>([&] { Predictor(network, options, torch::kCPU); }, "mean and std");
}

TEST(Upsample, StripsAreRowsOfTheWhole) {
  torch::manual_seed(0);
  for (const auto& [h, w, height, width] : {std::tuple{5, 7, 40, 56}, {9, 4, 9, 31}, {31, 8, 13, 8}, {1, 1, 6, 5}}) {
    const torch::Tensor map = torch::randn({3, h, w});
    const torch::Tensor whole = at::upsample_bilinear2d(map.unsqueeze(0), {height, width}, false).squeeze(0);
    for (int64_t top = 0; top < height; top += 4) {
      const int64_t rows = std::min<int64_t>(4, height - top);
      EXPECT_TRUE(torch::allclose(upsampled_rows(map, height, width, top, rows), whole.narrow(1, top, rows), 0, 1e-5));
    }
  }
}

TEST(Png, RefusesWhatCannotBeWritten) {
  const data::Image two = data::make_image(1, 1, 2), grey = data::make_image(1, 2, 1);
  grey.owned[0] = 0, grey.owned[1] = 2;
  const std::vector<Color> few(2), many(257);
  expect_error<std::invalid_argument>([&] { png_bytes(two); }, "expected 1 or 3 channels, got 2");
  expect_error<std::invalid_argument>([&] { png_bytes({0, 1, 1}); }, "the image is empty");
  expect_error<std::invalid_argument>([&] { png_bytes(grey, many); }, "at most 256 colours");
  expect_error<std::invalid_argument>([&] { png_bytes(grey, few); }, "the palette has 2 colours, got the index 2");
  expect_error<std::invalid_argument>([&] { overlay(grey, grey.pixels, few); }, "a label has no colour");
}

}  // namespace
}  // namespace iabn::segmentation
