// Sweep of the cluster kernel's plans: for every shape and pass the time of each plan, beside what
// kernels::cuda::forward() and the others choose, and what would run without the cluster kernels. Each time is that of
// a CUDA graph's replay, over buffers that together exceed the L2. One pass = bytes of the tensor / copy bandwidth
// measured in the same run. Every plan is checked against the two-pass kernels before it is timed.
//
// Usage: cuda_cluster_sweep [bf16|fp16|fp32] [best|all] [NxCxHxW...]

#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <functional>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "dev/ladder/sweep_support.cuh"
#include "iabn/kernels/cuda/channel.h"
#include "iabn/kernels/cuda/cluster.h"
#include "iabn/kernels/cuda/kernels.h"
#include "iabn/kernels/cuda/slab.h"
#include "iabn/kernels/cuda/two_pass.h"

namespace {

using namespace iabn;
using namespace iabn::kernels;
using namespace iabn::ladder;
using cuda::ClusterPlan;
using cuda::Pass;

constexpr size_t kPool = size_t{320} << 20;

struct Timer {
  cudaStream_t stream;
  cudaEvent_t start, stop;
  Timer() {
    check(cudaStreamCreate(&stream));
    check(cudaEventCreate(&start));
    check(cudaEventCreate(&stop));
  }
  /// Median over replays of a graph of `repeats` calls.
  double median(int rounds, int repeats, const std::function<void(int)>& work) const {
    cudaGraph_t graph;
    cudaGraphExec_t executable;
    check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
    for (int i = 0; i < repeats; ++i) work(i);
    check(cudaStreamEndCapture(stream, &graph));
    check(cudaGraphInstantiate(&executable, graph, 0));
    std::vector<float> times;
    for (int r = 0; r <= rounds; ++r) {
      check(cudaEventRecord(start, stream));
      check(cudaGraphLaunch(executable, stream));
      check(cudaEventRecord(stop, stream));
      check(cudaEventSynchronize(stop));
      times.push_back(0);
      check(cudaEventElapsedTime(&times.back(), start, stop));
    }
    check(cudaGraphExecDestroy(executable));
    check(cudaGraphDestroy(graph));
    std::sort(times.begin() + 1, times.end());  // the first one warms up
    return static_cast<double>(times[1 + times.size() / 2 - 1]) * 1e3 / repeats;
  }
};

const char* name_of(Pass pass) {
  const char* names[] = {"forward", "backward", "residual forward", "residual backward"};
  return names[static_cast<int>(pass)];
}

template <class T>
class Sweep {
 public:
  explicit Sweep(bool all) : all_(all) {
    for (char*& p : pool_) p = allocate(kPool);
    want_ = allocate(size_t{256} << 20);
    want_d_r_ = allocate(size_t{256} << 20);
    workspace_ = allocate(64 << 20);
    numbers_ = reinterpret_cast<float*>(allocate(1 << 20));
    sums_ = reinterpret_cast<double*>(allocate(64));
    fill<<<1024, 256>>>(numbers_, 1 << 18, 7, 2.f);
    check(cudaDeviceSynchronize());
    const double copy = timer_.median(
        9, 1, [&](int) { cudaMemcpyAsync(pool_[0], pool_[1], kPool, cudaMemcpyDeviceToDevice, timer_.stream); });
    bytes_per_us_ = 2.0 * kPool / copy;
    std::printf("copy %.1f GB/s\n", bytes_per_us_ / 1e3);
  }

  void shape(const Shape& shape) {
    shape_ = shape;
    bytes_ = static_cast<size_t>(shape.numel()) * sizeof(T);
    sets_ = static_cast<int>(std::max<size_t>(1, std::min<size_t>(32, kPool / bytes_)));
    pass_us_ = static_cast<double>(bytes_) / bytes_per_us_;
    for (const Pass pass : {Pass::kForward, Pass::kBackward, Pass::kResidualForward, Pass::kResidualBackward}) {
      one(pass);
    }
  }

 private:
  struct Row {
    ClusterPlan plan;
    double us;
  };

  T* at(int i, int set) const { return reinterpret_cast<T*>(pool_[i] + static_cast<size_t>(set % sets_) * bytes_); }

  enum class Which { kChosen, kOthers, kTwoPasses };

  /// With a plan, or with what the library chooses, chose without the cluster kernels, or can always do.
  void call(Pass pass, const ClusterPlan* plan, Which which, int set) {
    T *x = at(0, set), *d_z = at(1, set), *d_x = at(2, set), *r = at(3, set), *d_r = at(4, set);
    float *mean = numbers_ + 16384, *var = numbers_ + 32768, *d_weight = numbers_ + 49152, *d_bias = numbers_ + 65536;
    const Affine<float> affine{numbers_, numbers_ + 8192};
    const ActivationSpec act{Activation::kLeakyReLU, 0.01};
    cudaStream_t s = timer_.stream;
    const bool others = !plan && which == Which::kOthers;
    const auto slab = others ? cuda::slab_plan(shape_, sizeof(T), 0, pass) : std::nullopt;
    const int width = others ? cuda::channel_width<T>(shape_, 0, cuda::inputs_of(pass)) : 0;
    bool done = true;
    switch (pass) {
      case Pass::kForward:
        if (plan) {
          done = cuda::cluster_forward<T>(x, shape_, affine, act, {}, mean, var, *plan, s);
        } else if (width > 0) {
          cuda::channel_forward<T>(x, shape_, affine, act, {}, mean, var, width, s);
        } else if (slab) {
          done = cuda::slab_forward<T>(x, shape_, affine, act, {}, mean, var, *slab, workspace_, s);
        } else if (which == Which::kChosen) {
          cuda::forward<T>(x, shape_, affine, act, {}, mean, var, workspace_, s);
        } else {
          cuda::two_pass_forward<T>(x, shape_, affine, act, {}, mean, var, workspace_, s);
        }
        break;
      case Pass::kBackward:
        if (plan) {
          done = cuda::cluster_backward<T>(x, d_z, d_x, shape_, var, affine, act, d_weight, d_bias, *plan, s);
        } else if (width > 0) {
          cuda::channel_backward<T>(x, d_z, d_x, shape_, var, affine, act, d_weight, d_bias, width, s);
        } else if (slab) {
          done = cuda::slab_backward<T>(x, d_z, d_x, shape_, var, affine, act, d_weight, d_bias, *slab, workspace_, s);
        } else if (which == Which::kChosen) {
          cuda::backward<T>(x, d_z, d_x, shape_, var, affine, act, d_weight, d_bias, workspace_, s);
        } else {
          cuda::two_pass_backward<T>(x, d_z, d_x, shape_, var, affine, act, d_weight, d_bias, workspace_, s);
        }
        break;
      case Pass::kResidualForward:
        if (plan) {
          done = cuda::cluster_residual_forward<T>(x, r, shape_, affine, act, {}, mean, var, *plan, s);
        } else if (slab) {
          done = cuda::slab_residual_forward<T>(x, r, shape_, affine, act, {}, mean, var, *slab, workspace_, s);
        } else if (which == Which::kChosen) {
          cuda::residual_forward<T>(x, r, shape_, affine, act, {}, mean, var, workspace_, s);
        } else {
          cuda::two_pass_residual_forward<T>(x, r, shape_, affine, act, {}, mean, var, workspace_, s);
        }
        break;
      default:
        if (plan) {
          done = cuda::cluster_residual_backward<T>(x, d_z, r, d_x, d_r, shape_, var, affine, act, d_weight, d_bias,
                                                    *plan, s);
        } else if (slab) {
          done = cuda::slab_residual_backward<T>(x, d_z, r, d_x, d_r, shape_, var, affine, act, d_weight, d_bias, *slab,
                                                 workspace_, s);
        } else if (which == Which::kChosen) {
          cuda::residual_backward<T>(x, d_z, r, d_x, d_r, shape_, var, affine, act, d_weight, d_bias, workspace_, s);
        } else {
          cuda::two_pass_residual_backward<T>(x, d_z, r, d_x, d_r, shape_, var, affine, act, d_weight, d_bias,
                                              workspace_, s);
        }
    }
    if (!done) throw std::runtime_error("the device can't hold a plan");
  }

  /// Relative distance of an output from that of the two passes.
  double error(const T* got, const char* want) {
    check(cudaMemset(sums_, 0, 16));
    distance<<<512, 256>>>(got, reinterpret_cast<const T*>(want), shape_.numel(), sums_);
    double host[2];
    check(cudaMemcpy(host, sums_, 16, cudaMemcpyDeviceToHost));
    return std::sqrt(host[0] / host[1]);
  }

  void print(const char* what, const Row& row, Pass pass) const {
    const auto cut = cuda::cluster_cut(shape_, sizeof(T), pass, row.plan);
    std::printf("   %7.2f us %.3f  %s channels %d blocks %d threads %d resident %d (%d, %d KB, stages %d of %d rows)\n",
                row.us, row.us / pass_us_, what, row.plan.channels, row.plan.blocks, row.plan.threads,
                row.plan.resident, cut ? cut->threads : 0, cut ? cut->shared_bytes >> 10 : 0,
                cut ? cut->ring_stages : 0, cut ? cut->stage_rows : 0);
  }

  void one(Pass pass) {
    const bool forward = cuda::is_forward(pass);
    const int output = forward ? 0 : 2;
    for (int set = 0; set < sets_; ++set) {
      for (int i : {0, 1, 3}) fill<<<1024, 256>>>(at(i, set), shape_.numel(), i + 1u, 0.15f * i);
    }
    check(cudaDeviceSynchronize());
    call(pass, nullptr, Which::kTwoPasses, 0);
    check(cudaDeviceSynchronize());
    check(cudaMemcpy(want_, at(output, 0), bytes_, cudaMemcpyDeviceToDevice));
    check(cudaMemcpy(want_d_r_, at(4, 0), bytes_, cudaMemcpyDeviceToDevice));
    const int repeats = std::max(4, std::min(20, static_cast<int>(400 / pass_us_ / 5)));
    const double us = timer_.median(9, repeats, [&](int i) { call(pass, nullptr, Which::kChosen, i); });
    const double others = timer_.median(9, repeats, [&](int i) { call(pass, nullptr, Which::kOthers, i); });
    std::printf("%ldx%ldx%ld %s: chosen %.2f us %.3f, other kernels %.2f us %.3f\n", long(shape_.n), long(shape_.c),
                long(shape_.s), name_of(pass), us, us / pass_us_, others, others / pass_us_);
    std::vector<Row> rows;
    for (const int channels : {1, 2, 4, 8, 16, 32, 64}) {
      for (const int blocks : {1, 2, 4, 8, 16}) {
        for (const int threads : {256, 384, 512}) {
          for (const int resident : {1, 2}) {
            const ClusterPlan plan{channels, blocks, threads, resident};
            const auto cut = cuda::cluster_cut(shape_, sizeof(T), pass, plan);
            if (!cut || cut->shared_bytes < 16 << 10) continue;
            if (forward) {
              fill<<<1024, 256>>>(at(0, 0), shape_.numel(), 1, 0.f);
              check(cudaDeviceSynchronize());
            }
            for (int i : {2, 4}) check(cudaMemset(at(i, 0), 0xff, bytes_));
            call(pass, &plan, Which::kChosen, 0);
            check(cudaDeviceSynchronize());
            double apart = error(at(output, 0), want_);
            if (pass == Pass::kResidualBackward) apart += error(at(4, 0), want_d_r_);
            if (!(apart < 2e-3)) {
              std::printf("WRONG by %.3g: ", apart);
              print("", {plan, 0}, pass);
              continue;
            }
            rows.push_back({plan, timer_.median(3, repeats, [&](int i) { call(pass, &plan, Which::kChosen, i); })});
          }
        }
      }
    }
    std::sort(rows.begin(), rows.end(), [](const Row& a, const Row& b) { return a.us < b.us; });
    for (size_t i = 0; i < rows.size() && (all_ || i < 8); ++i) {
      if (i < 4) rows[i].us = timer_.median(9, repeats, [&](int k) { call(pass, &rows[i].plan, Which::kChosen, k); });
      print("", rows[i], pass);
    }
    std::fflush(stdout);
  }

  bool all_;
  Timer timer_;
  char* pool_[5];
  char *want_, *want_d_r_, *workspace_;
  float* numbers_;
  double* sums_;
  double bytes_per_us_;
  Shape shape_;
  size_t bytes_ = 0;
  int sets_ = 1;
  double pass_us_ = 0;
};

template <class T>
void sweep(bool all, const std::vector<std::string>& shapes) {
  Sweep<T> sweep(all);
  for (const std::string& text : shapes) {
    long n, c, h, w;
    if (std::sscanf(text.c_str(), "%ldx%ldx%ldx%ld", &n, &c, &h, &w) != 4) throw std::runtime_error(text);
    sweep.shape({n, c, h * w, Layout::kContiguous});
  }
}

}  // namespace

int main(int argc, char** argv) {
  const std::string dtype = argc > 1 ? argv[1] : "bf16";
  const bool all = argc > 2 && std::string(argv[2]) == "all";
  std::vector<std::string> shapes(argv + std::min(argc, 3), argv + argc);
  if (shapes.empty()) {
    shapes = {"128x1024x14x14", "64x1024x14x14", "32x1024x14x14", "32x256x14x14", "128x2048x7x7",
              "64x2048x7x7",    "32x2048x7x7",   "128x512x28x28", "128x256x56x56"};
  }
  try {
    if (dtype == "bf16") sweep<BFloat16>(all, shapes);
    if (dtype == "fp16") sweep<Half>(all, shapes);
    if (dtype == "fp32") sweep<float>(all, shapes);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 0;
}
