#include "iabn/train/predict_picture.h"

#include <stdexcept>
#include <utility>

#include <ATen/ATen.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <c10/util/Exception.h>

#include "iabn/data/decode.h"
#include "iabn/data/file.h"
#include "iabn/segmentation/render.h"
#include "iabn/train/atomic_file.h"

namespace iabn::train {
namespace {

// Not waited for where the tensor is on a GPU.
at::Tensor to_host(const at::Tensor& tensor) {
  if (tensor.device().is_cpu()) return tensor.contiguous();
  const auto options = tensor.options().device(c10::kCPU).pinned_memory(true);
  return at::empty(tensor.sizes(), options).copy_(tensor, /*non_blocking=*/true);
}

}  // namespace

void PredictPicture::read(const segmentation::Predictor& predictor) {
  try {
    const std::string name = files_.input.string();
    const auto channels = static_cast<int64_t>(predictor.options().mean.size());
    data::Image image = data::decode_image(data::read_file(files_.input).span(), channels, name);
    height_ = image.height;
    width_ = image.width;
    pixels_ = predictor.scaled(image);
    if (mode_ == OutputMode::kOverlay) image_ = std::move(image);
  } catch (const c10::Error& error) {
    error_ = files_.input.string() + ": " + error.what_without_backtrace();
  } catch (const std::exception& error) {
    error_ = error.what();
    if (error_.find(files_.input.string()) == std::string::npos) error_ = files_.input.string() + ": " + error_;
  }
}

void PredictPicture::predict(const segmentation::Predictor& predictor, c10::Device device) {
  try {
    const segmentation::Prediction answer = predictor.predict(pixels_, height_, width_);
    labels_ = to_host(answer.labels);
    if (mode_ == OutputMode::kProb) confidence_ = to_host(answer.confidence);
    finite_ = to_host(answer.confidence.isfinite().all());
  } catch (const c10::OutOfMemoryError&) {
    throw std::runtime_error(files_.input.string() + ": " + std::to_string(width_) + " x " + std::to_string(height_) +
                             " pixels need more memory than " + device.str() +
                             " has free; use smaller tiles (--window) or a smaller --longest-side");
  }
  pixels_.reset();
  if (device.is_cpu()) return;
  done_.emplace(device.type());
  done_->record(c10::impl::VirtualGuardImpl(device.type()).getStream(device));
}

void PredictPicture::finish() {
  if (done_) done_->synchronize();
  done_.reset();
  if (!finite_.item<bool>()) {
    error_ = files_.input.string() + ": the network's scores are no numbers; try --precision bf16 or float32";
  }
}

void PredictPicture::write(std::span<const segmentation::Color> colors) const {
  using segmentation::png_bytes;
  const auto* labels = labels_.const_data_ptr<uint8_t>();
  const data::Image classes{height_, width_, 1, labels};
  if (mode_ == OutputMode::kProb) {
    // First: the classes' file stands for both where another output mode looks for what is done.
    const auto* confidence = confidence_.const_data_ptr<float>();
    replace_file(files_.confidence, png_bytes(segmentation::confidence_image(confidence, height_, width_)));
  }
  if (mode_ == OutputMode::kOverlay) {
    replace_file(files_.output, png_bytes(segmentation::overlay(image_, labels, colors)));
  } else if (mode_ == OutputMode::kPalette) {
    replace_file(files_.output, png_bytes(classes, colors));
  } else {
    replace_file(files_.output, png_bytes(classes));
  }
}

}  // namespace iabn::train
