#include "iabn/train/step_trace.h"

#include <set>
#include <stdexcept>
#include <utility>

#include <torch/csrc/autograd/profiler_kineto.h>

#include "iabn/train/device.h"

namespace iabn::train {

namespace profiler = torch::autograd::profiler;

StepTrace::StepTrace(std::filesystem::path path, int64_t steps, c10::Device device)
    : path_(std::move(path)), steps_(steps), device_(device) {}

StepTrace::~StepTrace() {
  if (recording_) profiler::disableProfiler();
}

void StepTrace::step_done() {
  if (steps_ == 0) return;
  ++done_;
  if (done_ == kBefore) start();
  if (done_ == kBefore + steps_) finish();
}

void StepTrace::start() {
  using torch::profiler::impl::ActivityType;
  const torch::profiler::impl::ProfilerConfig config(torch::profiler::impl::ProfilerState::KINETO);
  std::set<ActivityType> activities{ActivityType::CPU};
  if (device_.is_cuda()) activities.insert(ActivityType::CUDA);
  synchronize(device_);
  profiler::prepareProfiler(config, activities);
  profiler::enableProfiler(config, activities);
  recording_ = true;
}

void StepTrace::finish() {
  synchronize(device_);
  recording_ = false;
  profiler::disableProfiler()->save(path_.string());
  if (!std::filesystem::exists(path_)) throw std::runtime_error(path_.string() + ": the trace could not be written");
}

}  // namespace iabn::train
