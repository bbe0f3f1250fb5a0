// iabn doctor: what is installed, what is missing, and whether the layer computes what it should.

#include <cstdio>
#include <string>
#include <vector>

#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <link.h>
#include <torch/cuda.h>
#include <torch/version.h>
#include <CLI/CLI.hpp>

#include "cli/bench_support.h"
#include "cli/commands.h"
#include "cli/doctor_checks.h"
#include "cli/gpu_info.h"
#include "iabn/train/device.h"
#include "iabn/train/version.h"

namespace iabn::cli {
namespace {

class Report {
 public:
  void fact(const std::string& name, const std::string& value) const {
    std::printf("%-18s %s\n", name.c_str(), value.c_str());
  }
  void broken(const std::string& name, const std::string& text, const std::string& advice) {
    fact(name, "BROKEN: " + text);
    advice_.push_back(advice);
    broken_ = true;
  }
  void advise(const std::string& advice) { advice_.push_back(advice); }

  int finish() const {
    for (const std::string& line : advice_) std::printf("-> %s\n", line.c_str());
    std::printf("%s\n", broken_ ? "Something is broken: see above." : "All is well.");
    return broken_ ? kError : kOk;
  }

 private:
  std::vector<std::string> advice_;
  bool broken_ = false;
};

// Paths of the loaded libraries whose file name begins with `prefix`.
std::vector<std::string> loaded_libraries(const std::string& prefix) {
  std::pair<std::string, std::vector<std::string>> search{"/" + prefix, {}};
  dl_iterate_phdr(
      [](dl_phdr_info* info, size_t, void* data) {
        auto& [wanted, found] = *static_cast<decltype(search)*>(data);
        const std::string path = info->dlpi_name;
        const size_t slash = path.rfind('/');
        if (slash != std::string::npos && path.compare(slash, wanted.size(), wanted) == 0) found.push_back(path);
        return 0;
      },
      &search);
  return search.second;
}

void report_libraries(Report& report) {
  report.fact("iabn", train::kVersion);
  for (const char* prefix : {"libiabn.so", "libiabn_ops.so", "libiabn_ops_cuda.so", "libtorch_cpu.so"}) {
    const auto paths = loaded_libraries(prefix);
    report.fact(std::string("  ") + prefix, paths.empty() ? "not loaded" : paths.front());
    if (paths.size() > 1) {
      report.broken("", "a second one is loaded: " + paths[1], "remove one of the two from LD_LIBRARY_PATH");
    }
  }
  report.fact("LibTorch", TORCH_VERSION);
}

void report_cpu(Report& report) {
  report.fact("CPU", cpu_model());
  report.fact("  instructions", at::get_cpu_capability());
  report.fact("  threads", std::to_string(at::get_num_threads()));
}

// What stands between the GPUs of this machine and the layer, from the driver upwards.
void report_cuda(Report& report) {
  const CudaDriver driver = query_cuda_driver();
  if (!driver.found) {
    report.fact("CUDA", "none: " + driver.problem);
    if (driver.loaded) {
      report.advise("if this machine has a GPU: see whether nvidia-smi lists it (else install the driver again, or " +
                    std::string("restart after its update), that CUDA_VISIBLE_DEVICES does not hide it, and that a ") +
                    "container was started with its GPUs (docker run --gpus all)");
    }
    return;
  }
  const int runtime = loaded_cuda_runtime();
  report.fact("CUDA driver", driver.version + ", up to CUDA " + cuda_version(driver.cuda));
  report.fact("CUDA runtime", runtime > 0 ? cuda_version(runtime) : "not loaded");
  for (const GpuInfo& gpu : driver.devices) {
    report.fact("  device", gpu.name + ", sm_" + std::to_string(gpu.major) + std::to_string(gpu.minor) + ", " +
                                std::to_string(gpu.bytes >> 20) + " MiB");
  }
  if (!train::has_operators(c10::kCUDA)) {
    report.advise("this build of iabn has no CUDA operators, so it runs on the CPU; build it with -DIABN_CUDA=ON");
  } else if (!torch::cuda::is_available()) {
    const bool old = runtime > 0 && driver.cuda / 1000 < runtime / 1000;
    report.broken("CUDA", "LibTorch cannot use the GPU",
                  old ? "the driver is older than LibTorch's CUDA " + cuda_version(runtime) +
                            ": update the driver, or install a LibTorch for CUDA " + cuda_version(driver.cuda)
                      : "check CUDA_VISIBLE_DEVICES, and that LibTorch is a build with CUDA");
  }
}

void report_self_test(Report& report, c10::Device device) {
  const std::string name = "self-test " + device.str();
  const SelfTest result = test_layer(device);
  if (result.passed) {
    report.fact(name, "passed (" + result.text + ")");
  } else {
    report.broken(name, result.text,
                  "the layer is wrong on " + device.str() +
                      ": reinstall iabn for LibTorch " TORCH_VERSION "; if that does not help, report the lines above");
  }
}

int run_doctor() {
  Report report;
  report_libraries(report);
  report_cpu(report);
  report_cuda(report);
  if (!train::has_operators(c10::kCPU)) {
    report.broken("operators", "the CPU operators are not registered",
                  "libiabn_ops.so must lie beside libiabn.so: install iabn again");
    return report.finish();
  }
  report_self_test(report, c10::Device(c10::kCPU));
  if (torch::cuda::is_available() && train::has_operators(c10::kCUDA)) {
    for (c10::DeviceIndex i = 0; i < torch::cuda::device_count(); ++i) {
      report_self_test(report, c10::Device(c10::kCUDA, i));
    }
  }
  return report.finish();
}

}  // namespace

void add_doctor(CLI::App& app, Run& run) {
  CLI::App* command = app.add_subcommand("doctor", "Say what is installed and missing, and test the layer");
  command->callback([&run] { run = run_doctor; });
}

}  // namespace iabn::cli
