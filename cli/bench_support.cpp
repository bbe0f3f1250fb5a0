#include "cli/bench_support.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <fstream>
#include <thread>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/Event.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <torch/version.h>

#include "cli/gpu_info.h"
#include "iabn/train/atomic_file.h"
#include "iabn/train/device.h"

namespace iabn::cli {
namespace {

constexpr const char* kHeader =
    "case,variant,shape,dtype,layout,pass,metric,p20,p50,p80,unit,gpu,driver,torch,git_sha,date\n";

// One copy of these on a GPU takes about 0.2 ms; larger than any cache.
constexpr int64_t kLargeBytes = int64_t{256} << 20;

double milliseconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
}

std::vector<double> time_on_gpu(c10::Device device, const std::vector<std::function<void()>>& actions,
                                HeadStart& head_start) {
  const c10::Stream stream = c10::impl::VirtualGuardImpl(device.type()).getStream(device);
  const at::Tensor from = at::empty({kLargeBytes}, at::TensorOptions(at::kByte).device(device));
  const at::Tensor to = at::empty_like(from);
  for (size_t i = 0; i < static_cast<size_t>(head_start.copies) * actions.size(); ++i) to.copy_(from);
  // Or else the first action would be charged for writing back what the copies left in the L2.
  const at::Tensor read_only = from.max();
  std::vector<c10::Event> events;
  for (size_t i = 0; i <= actions.size(); ++i) events.emplace_back(device.type(), c10::EventFlag::BACKEND_DEFAULT);
  events[0].record(stream);
  for (size_t i = 0; i < actions.size(); ++i) {
    actions[i]();
    events[i + 1].record(stream);
  }
  head_start.sufficed = !events[0].query();
  train::synchronize(device);
  std::vector<double> times;
  for (size_t i = 0; i < actions.size(); ++i) times.push_back(events[i].elapsedTime(events[i + 1]));
  return times;
}

std::string first_line_of(const char* command) {
  std::string line;
  if (std::FILE* pipe = ::popen(command, "r")) {
    char text[128] = {};
    if (std::fgets(text, sizeof text, pipe) != nullptr) line = text;
    ::pclose(pipe);
  }
  line.erase(line.find_last_not_of(" \n") + 1);
  return line;
}

std::string number(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.6g", value);
  return text;
}

std::string without_commas(std::string text) {
  std::replace(text.begin(), text.end(), ',', ' ');
  return text;
}

}  // namespace

Spread spread(std::vector<double> samples) {
  std::sort(samples.begin(), samples.end());
  const auto at = [&samples](double share) {
    const double place = share * static_cast<double>(samples.size() - 1);
    const auto below = static_cast<size_t>(std::floor(place));
    const size_t above = std::min(below + 1, samples.size() - 1);
    return samples[below] + (place - static_cast<double>(below)) * (samples[above] - samples[below]);
  };
  return {at(0.2), at(0.5), at(0.8)};
}

std::vector<double> time_each(c10::Device device, const std::vector<std::function<void()>>& actions,
                              HeadStart* head_start) {
  HeadStart usual;
  if (!device.is_cpu()) return time_on_gpu(device, actions, head_start ? *head_start : usual);
  std::vector<double> times;
  for (const auto& action : actions) {
    const auto start = std::chrono::steady_clock::now();
    action();
    times.push_back(milliseconds_since(start));
  }
  return times;
}

double copy_bandwidth(c10::Device device) {
  // Float, because that is the copy LibTorch splits over the threads; zeros, so that every page is there. On a CPU one
  // slice after the other: as short as the layer's own passes, so that a busy machine disturbs both alike, and evicted
  // by the others before its turn comes again.
  const int64_t slices = device.is_cpu() ? 8 : 1;
  const auto from = at::zeros({slices, kLargeBytes / 4 / slices}, at::TensorOptions(at::kFloat).device(device));
  const auto to = at::zeros_like(from);
  std::vector<std::function<void()>> copies;
  for (int64_t i = 0; i < 4 * slices + 8; ++i) {
    copies.emplace_back([&, i] { to[i % slices].copy_(from[i % slices]); });
  }
  const auto times = time_each(device, copies);
  const double bytes = 2.0 * kLargeBytes / static_cast<double>(slices);
  return bytes / (1e-3 * spread({times.begin() + 4, times.end()}).p50);
}

std::string cpu_model() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    if (line.rfind("model name", 0) == 0) return line.substr(line.find(':') + 2);
  }
  return "unknown CPU";
}

Machine describe_machine(c10::Device device) {
  Machine machine;
  machine.torch = TORCH_VERSION;
  machine.git_sha = first_line_of("git describe --always --dirty 2>/dev/null");
  const std::time_t now = std::time(nullptr);
  char date[16];
  std::strftime(date, sizeof date, "%Y-%m-%d", std::gmtime(&now));
  machine.date = date;
  if (device.is_cpu()) {
    machine.gpu = cpu_model() + " (" + std::to_string(at::get_num_threads()) + " threads)";
    return machine;
  }
  const CudaDriver driver = query_cuda_driver();
  machine.driver = driver.version;
  const auto index = static_cast<size_t>(device.index());
  machine.gpu = index < driver.devices.size() ? driver.devices[index].name : "unknown GPU";
  return machine;
}

void warn_if_busy() {
  double load = 0;
  const double cores = std::thread::hardware_concurrency();
  if (::getloadavg(&load, 1) != 1 || load <= 0.5 * cores + 0.5) return;
  std::printf("note: the load average is %.1f on %.0f cores; times and bandwidths below are disturbed\n", load, cores);
}

void CsvRows::add(const std::string& variant, const std::string& shape, const std::string& dtype,
                  const std::string& layout, const std::string& pass, const std::string& metric, const Spread& value,
                  const std::string& unit) {
  for (const std::string& field :
       {case_, variant, shape, dtype, layout, pass, metric, number(value.p20), number(value.p50), number(value.p80),
        unit, machine_.gpu, machine_.driver, machine_.torch, machine_.git_sha}) {
    text_ += without_commas(field) + ",";
  }
  text_ += machine_.date + "\n";
}

void CsvRows::write(const std::string& path) const { train::replace_file(path, kHeader + text_); }

}  // namespace iabn::cli
