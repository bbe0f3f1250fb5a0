#include "iabn/train/predict_picture.h"

#include <algorithm>
#include <stdexcept>
#include <string_view>
#include <utility>

#include <ATen/ATen.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <c10/util/Exception.h>

#include "iabn/data/decode.h"
#include "iabn/data/file.h"
#include "iabn/nn/error_text.h"
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

bool is_want_of_memory(const std::exception& error) {
  if (dynamic_cast<const c10::OutOfMemoryError*>(&error) != nullptr) return true;
  // PyTorch's allocator of the CPU has no type for it.
  return std::string_view(error.what()).find("DefaultCPUAllocator: can't allocate memory") != std::string_view::npos;
}

}  // namespace

void PredictPicture::leave_out(const std::string& reason) {
  const std::string name = files_.input.string();
  error_ = reason.find(name) == std::string::npos ? name + ": " + reason : reason;
  memory_ = {};
  image_ = {};
  for (at::Tensor* tensor : {&pixels_, &labels_, &confidence_, &finite_}) tensor->reset();
}

void PredictPicture::leave_out(const std::exception& error) { leave_out(nn::text_of(error)); }

// At most at once: while reading, the picture, its scaled copy and what resizing wants; afterwards the answer, what is
// made of it for the files, and their bytes.
int64_t PredictPicture::bytes_for(data::ImageSize size, const segmentation::PredictorOptions& options) const {
  const auto channels = static_cast<int64_t>(options.mean.size());
  const int64_t pixels = size.height * size.width, longest = std::max(size.height, size.width);
  const double scale = options.longest_side > 0 ? double(options.longest_side) / double(longest) : 1;
  const int64_t answer = mode_ == OutputMode::kOverlay || mode_ == OutputMode::kProb ? 8 : 2;
  return pixels * (channels + answer) + static_cast<int64_t>(double(pixels) * scale * scale) * channels * 2;
}

bool PredictPicture::read(const segmentation::Predictor& predictor, MemoryBudget& budget, bool forced) {
  try {
    const std::string name = files_.input.string();
    const auto channels = static_cast<int64_t>(predictor.options().mean.size());
    const data::FileBytes bytes = data::read_file(files_.input);
    memory_ = budget.take(bytes_for(data::image_size(bytes.span(), name), predictor.options()), forced);
    if (!memory_) return false;
    data::Image image = data::decode_image(bytes.span(), channels, name);
    height_ = image.height;
    width_ = image.width;
    pixels_ = predictor.scaled(image);
    if (mode_ == OutputMode::kOverlay) image_ = std::move(image);
  } catch (const std::exception& error) {
    leave_out(error);
  }
  return true;
}

void PredictPicture::predict(const segmentation::Predictor& predictor, c10::Device device) {
  try {
    const segmentation::Prediction answer = predictor.predict(pixels_, height_, width_);
    labels_ = to_host(answer.labels);
    if (mode_ == OutputMode::kProb) confidence_ = to_host(answer.confidence);
    finite_ = to_host(answer.confidence.isfinite().all());
  } catch (const c10::AcceleratorError& error) {  // of no picture: nothing works on the GPU after it
    throw std::runtime_error(files_.input.string() + ": " + error.what_without_backtrace());
  } catch (const std::exception& error) {
    if (is_want_of_memory(error)) {
      leave_out(std::to_string(width_) + " x " + std::to_string(height_) + " pixels need more memory than " +
                device.str() + " has free; use smaller tiles (--window) or a smaller --longest-side");
    } else {
      leave_out(error);
    }
  }
  if (!error_.empty()) {
    // What the picture has left in the cache is in pieces that may not suit the next one.
    if (!device.is_cpu()) at::getDeviceAllocator(device.type())->emptyCache();
    return;
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
    leave_out("the network's scores are no numbers; try --precision bf16 or float32");
  }
}

void PredictPicture::write(std::span<const segmentation::Color> colors) {
  try {
    write_files(colors);
  } catch (const FileNameError& error) {
    leave_out(error);
  }
}

void PredictPicture::write_files(std::span<const segmentation::Color> colors) const {
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
