#include "iabn/segmentation/predictor.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <deque>
#include <stdexcept>
#include <string>
#include <utility>

#include <ATen/ATen.h>

#include "iabn/data/decode.h"
#include "iabn/data/resize.h"
#include "iabn/data/single_thread.h"
#include "iabn/models/network.h"
#include "iabn/nn/autocast.h"
#include "iabn/segmentation/upsample.h"

namespace iabn::segmentation {
namespace {

// Of one tensor [classes, rows, W] of scores; there are up to five at a time.
constexpr int64_t kStripBytes = int64_t{1} << 25;

void check(bool ok, const std::string& text) {
  if (!ok) throw std::invalid_argument("predictor: " + text);
}

// As Python rounds, halves to even.
int64_t scaled_edge(int64_t edge, double scale) {
  return std::max<int64_t>(1, std::llrint(scale * static_cast<double>(edge)));
}

// The tiles' side for a picture; 0: one tile.
int64_t window_for(const PredictorOptions& options, int64_t height, int64_t width) {
  if (options.window != kAutomaticWindow) return options.window;
  const double scale = *std::max_element(options.scales.begin(), options.scales.end());
  if (scaled_edge(height, scale) * scaled_edge(width, scale) <= kWholePixels) return 0;
  const auto side = static_cast<int64_t>(std::sqrt(static_cast<double>(kWholePixels)) / scale);
  return std::max<int64_t>(32, side / 32 * 32);
}

// First pixels of the tiles along an edge.
std::vector<int64_t> tile_starts(int64_t edge, int64_t window) {
  std::vector<int64_t> starts = {0};
  while (starts.back() + window < edge) starts.push_back(std::min(starts.back() + window / 2, edge - window));
  return starts;
}

// How many tiles of a row cover each column: float32 [edge]. Undefined for a single one: to fill it would let the host
// wait for a GPU.
at::Tensor tiles_over_columns(int64_t edge, int64_t window, c10::Device device) {
  if (window >= edge) return {};
  const at::Tensor tiles = at::zeros({edge}, at::kFloat);
  for (const int64_t left : tile_starts(edge, window)) tiles.narrow(0, left, window).add_(1);
  return tiles.to(device);
}

at::Tensor per_channel(const std::vector<double>& values, c10::Device device) {
  return (at::tensor(values, at::kDouble) * 255).to(at::kFloat).view({-1, 1, 1}).to(device);
}

}  // namespace

void check_options(const PredictorOptions& options) {
  check(!options.scales.empty(), "scales must have at least one number");
  for (const double scale : options.scales) {
    check(scale > 0 && scale <= 16, "scales must be above 0 and at most 16, got " + std::to_string(scale));
  }
  check(options.longest_side >= 0, "longest_side must be 0 or more, got " + std::to_string(options.longest_side));
  check(options.window == kAutomaticWindow || options.window == 0 || options.window >= 32,
        "window must be 0 or at least 32, got " + std::to_string(options.window));
  check(!options.mean.empty() && options.mean.size() == options.std.size(),
        "mean and std must have one number for each channel");
  for (const double deviation : options.std) check(deviation > 0, "std must be above 0");
}

struct Predictor::Tile {
  int64_t left, width;
  std::vector<at::Tensor> logits;  // of each view: [classes, h, w], not mirrored
};

struct Predictor::TileRow {
  int64_t top, height;
  std::vector<Tile> tiles;
};

Predictor::Predictor(models::Network& network, const PredictorOptions& options, c10::Device device)
    : network_(network), options_(options), device_(device) {
  check_options(options);
  mean_ = per_channel(options.mean, device);
  std_ = per_channel(options.std, device);
}

at::Tensor Predictor::scaled(const data::Image& image) const {
  const auto channels = static_cast<int64_t>(options_.mean.size());
  check(image.channels == channels,
        "the image must have " + std::to_string(channels) + " channels, got " + std::to_string(image.channels));
  int64_t height = image.height, width = image.width;
  if (const int64_t longest = options_.longest_side; longest > 0) {
    const int64_t now = std::max(height, width);
    height = std::max<int64_t>(1, height * longest / now);
    width = std::max<int64_t>(1, width * longest / now);
    data::check_image_size(width, height, "scaled to a longest side of " + std::to_string(longest));
  }
  const at::Tensor pixels =
      at::empty({height, width, channels}, at::TensorOptions(at::kByte).pinned_memory(device_.is_cuda()));
  const auto fill = [&](const data::Image& from) {
    std::memcpy(pixels.mutable_data_ptr(), from.pixels, static_cast<size_t>(from.bytes()));
  };
  if (height == image.height && width == image.width) {
    fill(image);
  } else {
    const data::SingleThread single_thread;
    fill(data::resize(image, {0, 0, image.height, image.width}, height, width));
  }
  return pixels;
}

Prediction Predictor::operator()(const data::Image& image) const {
  return predict(scaled(image), image.height, image.width);
}

// Of every view of a picture or tile [H, W, channels].
std::vector<at::Tensor> Predictor::logits(const at::Tensor& pixels) const {
  const at::Tensor values = pixels.contiguous().to(device_, /*non_blocking=*/true).permute({2, 0, 1});
  const at::Tensor picture = (values.to(at::kFloat) - mean_).div_(std_).unsqueeze(0);
  std::vector<at::Tensor> result;
  for (const double scale : options_.scales) {
    const int64_t height = scaled_edge(picture.size(2), scale), width = scaled_edge(picture.size(3), scale);
    const bool same = height == picture.size(2) && width == picture.size(3);
    const at::Tensor view = same ? picture : at::upsample_bilinear2d(picture, {height, width}, false);
    for (const bool mirrored : {false, true}) {
      if (mirrored && !options_.flip) continue;
      at::Tensor input = mirrored ? view.flip({3}) : view;
      input = input.contiguous(options_.channels_last ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous);
      at::Tensor logits = network_.forward(std::move(input));
      check(logits.dim() == 4 && logits.size(0) == 1 && logits.size(1) >= 1 && logits.size(1) <= 256,
            "the network must return logits [1, classes, h, w] of at most 256 classes");
      // A copy where channels come last: strips of rows and softmax over classes want planes.
      result.push_back((mirrored ? logits.flip({3}) : logits).squeeze(0).contiguous());
    }
  }
  return result;
}

// The tiles that begin in row `top`.
Predictor::TileRow Predictor::tile_row(const at::Tensor& pixels, int64_t top, int64_t window) const {
  const int64_t height = std::min(window, pixels.size(0)), width = std::min(window, pixels.size(1));
  TileRow row{top, height, {}};
  for (const int64_t left : tile_starts(pixels.size(1), window)) {
    row.tiles.push_back({left, width, logits(pixels.narrow(0, top, height).narrow(1, left, width))});
  }
  return row;
}

// Of one view in the picture's rows [top, top + rows), all of which the same rows of tiles cover: [classes, rows, W].
at::Tensor Predictor::scores(const std::vector<const TileRow*>& covering, size_t view, int64_t top, int64_t rows,
                             const at::Tensor& tiles_above) const {
  at::Tensor sum;
  for (const TileRow* row : covering) {
    for (const Tile& tile : row->tiles) {
      at::Tensor own = at::softmax(upsampled_rows(tile.logits[view], row->height, tile.width, top - row->top, rows), 0);
      if (covering.size() == 1 && row->tiles.size() == 1) return own;
      if (!sum.defined()) sum = at::zeros({own.size(0), rows, row->tiles.back().left + tile.width}, own.options());
      sum.narrow(2, tile.left, tile.width).add_(own);
    }
  }
  if (tiles_above.defined()) sum.div_(tiles_above);
  return sum.div_(static_cast<double>(covering.size()));
}

Prediction Predictor::predict(const at::Tensor& pixels, int64_t height, int64_t width) const {
  const at::NoGradGuard no_grad;
  const nn::Autocast autocast(device_, options_.dtype);
  if (network_.is_training()) throw std::logic_error("predictor: the network must be in evaluation mode");
  const int64_t picture_height = pixels.size(0), picture_width = pixels.size(1);
  int64_t window = window_for(options_, picture_height, picture_width);
  if (window == 0) window = std::max(picture_height, picture_width);

  const at::Tensor tiles_above = tiles_over_columns(picture_width, window, device_);
  Prediction whole{at::empty({picture_height, picture_width}, at::TensorOptions(at::kByte).device(device_)),
                   at::empty({picture_height, picture_width}, at::TensorOptions(at::kFloat).device(device_))};

  const std::vector<int64_t> tops = tile_starts(picture_height, window);
  std::deque<TileRow> live;  // rows of tiles that reach below `done`
  int64_t done = 0;
  for (size_t i = 0; i < tops.size(); ++i) {
    live.push_back(tile_row(pixels, tops[i], window));
    const int64_t end = i + 1 < tops.size() ? tops[i + 1] : picture_height;
    while (done < end) {
      while (live.front().top + live.front().height <= done) live.pop_front();
      // All live rows of tiles cover the strip down to the end of the first of them.
      std::vector<const TileRow*> covering;
      for (const TileRow& row : live) covering.push_back(&row);
      const auto& first = live.front().tiles.front().logits;
      const int64_t most = std::max<int64_t>(1, kStripBytes / (4 * first[0].size(0) * picture_width));
      const int64_t rows = std::min({end - done, live.front().top + live.front().height - done, most});
      Fuser fuser(options_.fusion);
      for (size_t view = 0; view < first.size(); ++view) fuser.add(scores(covering, view, done, rows, tiles_above));
      const Prediction strip = fuser.result();
      whole.labels.narrow(0, done, rows).copy_(strip.labels);
      whole.confidence.narrow(0, done, rows).copy_(strip.confidence);
      done += rows;
    }
  }
  return {resized_nearest(whole.labels, height, width), resized_nearest(whole.confidence, height, width)};
}

}  // namespace iabn::segmentation
