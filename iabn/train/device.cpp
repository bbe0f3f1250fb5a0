#include "iabn/train/device.h"

#include <stdexcept>

#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/cuda.h>

namespace iabn::train {

bool has_operators(c10::DeviceType type) {
  const auto op = c10::Dispatcher::singleton().findSchema({"iabn::abn_forward_", ""});
  return op && op->hasKernelForDispatchKey(type == c10::kCUDA ? c10::DispatchKey::CUDA : c10::DispatchKey::CPU);
}

c10::Device choose_device(const std::string& name) {
  const bool gpu = torch::cuda::is_available();
  if (name == "auto") return gpu && has_operators(c10::kCUDA) ? c10::Device(c10::kCUDA, 0) : c10::Device(c10::kCPU);
  if (name == "cpu") return c10::Device(c10::kCPU);
  const bool numbered = name.size() > 5 && name.size() < 8 && name.rfind("cuda:", 0) == 0 &&
                        name.find_first_not_of("0123456789", 5) == std::string::npos;
  if (name != "cuda" && !numbered) {
    throw std::invalid_argument("--device must be auto, cpu, cuda or cuda:N, got \"" + name + "\"");
  }
  if (!gpu) throw std::invalid_argument("--device " + name + ": LibTorch sees no CUDA device; see `iabn doctor`");
  const int index = numbered ? std::stoi(name.substr(5)) : 0;
  if (index >= torch::cuda::device_count()) {
    throw std::invalid_argument("--device " + name + ": this machine has " +
                                std::to_string(int{torch::cuda::device_count()}) + " CUDA device(s), from cuda:0 on");
  }
  if (!has_operators(c10::kCUDA)) {
    throw std::invalid_argument("--device " + name +
                                ": this build of iabn has no CUDA operators; build it with -DIABN_CUDA=ON");
  }
  return c10::Device(c10::kCUDA, static_cast<c10::DeviceIndex>(index));
}

void synchronize(c10::Device device) {
  if (device.is_cuda()) torch::cuda::synchronize(device.index());
}

}  // namespace iabn::train
