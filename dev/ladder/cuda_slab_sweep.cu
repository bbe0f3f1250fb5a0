// Sweep of the slab kernel's plans: for every shape and direction the time of each plan, in passes, beside the
// two-pass kernels and of the plan that slab_plan() chooses. One pass = bytes of the tensor / copy bandwidth measured
// in the same run. Every plan is checked against the two-pass kernels before it is timed.
//
// Usage: cuda_slab_sweep [bf16|fp16|fp32] [all]     all: print every plan, not only the best

#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <functional>
#include <stdexcept>
#include <string>
#include <vector>

#include "dev/ladder/sweep_support.cuh"
#include "iabn/kernels/cuda/kernels.h"
#include "iabn/kernels/cuda/slab.h"
#include "iabn/kernels/cuda/two_pass.h"

namespace {

using namespace iabn;
using namespace iabn::kernels;
using namespace iabn::ladder;
using cuda::Pass;
using cuda::SlabPlan;

constexpr size_t kPool = size_t{640} << 20;

struct Timer {
  cudaEvent_t start, stop;
  Timer() {
    check(cudaEventCreate(&start));
    check(cudaEventCreate(&stop));
  }
  double microseconds(int repeats, const std::function<void(int)>& work) const {
    check(cudaEventRecord(start));
    for (int i = 0; i < repeats; ++i) work(i);
    check(cudaEventRecord(stop));
    check(cudaEventSynchronize(stop));
    float ms = 0;
    check(cudaEventElapsedTime(&ms, start, stop));
    return ms * 1e3 / repeats;
  }
  double median(int rounds, int repeats, const std::function<void(int)>& work) const {
    std::vector<double> times;
    for (int r = 0; r < rounds; ++r) times.push_back(microseconds(repeats, work));
    std::sort(times.begin(), times.end());
    return times[times.size() / 2];
  }
};

const char* name_of(Pass pass) {
  switch (pass) {
    case Pass::kForward:
      return "forward";
    case Pass::kBackward:
      return "backward";
    case Pass::kResidualForward:
      return "residual forward";
    default:
      return "residual backward";
  }
}

struct Row {
  SlabPlan plan;
  double us;
};

void print(const char* what, const Row& row, double pass) {
  const SlabPlan& p = row.plan;
  std::printf("   %7.1f us %.3f  %s row_bytes %d blocks %d groups %d chunk_rows %d in_flight %d prefetch %d\n", row.us,
              row.us / pass, what, p.row_bytes, p.blocks, p.groups, p.chunk_rows, p.in_flight, p.prefetch);
}

/// Every sensible division of the device, chunks as large as possible.
std::vector<SlabPlan> divisions(const Shape& shape, int64_t element_bytes, int inputs) {
  std::vector<SlabPlan> plans;
  const bool contiguous = shape.layout == Layout::kContiguous;
  for (const int row_bytes : contiguous ? std::vector<int>{0} : std::vector<int>{64, 128}) {
    if (contiguous && shape.s * element_bytes % 16 != 0) continue;
    const int64_t channels = contiguous ? 1 : row_bytes / element_bytes;
    const int64_t slabs = (shape.c + channels - 1) / channels;
    const int64_t slab_bytes = shape.count() * channels * element_bytes * inputs;
    for (const int blocks : {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 16, 18, 22, 26, 33, 44, 62, 66, 132}) {
      const int64_t groups = std::min<int64_t>(132 / blocks, slabs);
      const int64_t rounds = (slabs + groups - 1) / groups;
      const double use = static_cast<double>(slabs * blocks) / static_cast<double>(rounds * 132);
      if (use < 0.8 && blocks != 132) continue;
      if (slab_bytes / blocks > (400 << 10) && blocks < 132) continue;
      if (slab_bytes / blocks < (12 << 10)) continue;
      SlabPlan plan;
      plan.row_bytes = row_bytes;
      plan.blocks = blocks;
      plan.groups = static_cast<int>(groups);
      plan.in_flight = 3;
      plans.push_back(plan);
    }
  }
  return plans;
}

template <class T>
void sweep(bool all) {
  const Timer timer;
  char* pool[5];
  for (char*& p : pool) p = allocate(kPool);
  char* want = allocate(size_t{420} << 20);
  char* want_d_r = allocate(size_t{420} << 20);
  char* workspace = allocate(64 << 20);
  float* parameters = reinterpret_cast<float*>(allocate(1 << 20));
  double* sums = reinterpret_cast<double*>(allocate(64));
  const double copy =
      timer.median(15, 1, [&](int) { cudaMemcpyAsync(pool[0], pool[1], kPool, cudaMemcpyDeviceToDevice); });
  const double bytes_per_us = 2.0 * kPool / copy;
  std::printf("copy %.1f GB/s\n", bytes_per_us / 1e3);
  const int64_t shapes[][4] = {{128, 64, 112, 0},  {128, 256, 56, 0}, {64, 256, 56, 0},  {128, 512, 28, 0},
                               {128, 1024, 14, 0}, {8, 1024, 65, 0},  {128, 2048, 7, 0}, {32, 256, 14, 0},
                               {128, 256, 56, 1},  {128, 512, 28, 1}, {128, 64, 112, 1}, {128, 1024, 14, 1}};
  fill<<<1024, 256>>>(parameters, 1 << 18, 7, 2.f);
  float *mean = parameters + 16384, *var = parameters + 32768, *weight = parameters, *bias = parameters + 8192;
  float *d_weight = parameters + 49152, *d_bias = parameters + 65536;
  const Affine<float> affine{weight, bias};
  const ActivationSpec act{Activation::kLeakyReLU, 0.01};
  for (const auto& [n, c, side, contiguous] : shapes) {
    const Shape shape{n, c, side * side, contiguous ? Layout::kContiguous : Layout::kChannelsLast};
    const size_t bytes = static_cast<size_t>(shape.numel()) * sizeof(T);
    const int sets = static_cast<int>(std::max<size_t>(1, std::min<size_t>(32, kPool / bytes)));
    const double pass_us = static_cast<double>(bytes) / bytes_per_us;
    const auto at = [&](int i, int set) {
      return reinterpret_cast<T*>(pool[i] + static_cast<size_t>(set % sets) * bytes);
    };
    for (const Pass pass : {Pass::kForward, Pass::kBackward, Pass::kResidualForward, Pass::kResidualBackward}) {
      const bool forward = cuda::is_forward(pass);
      for (int set = 0; set < sets; ++set) {
        for (int i : {0, 1, 3}) fill<<<1024, 256>>>(at(i, set), shape.numel(), i + 1u, 0.15f * i);
      }
      const auto plain = [&](int i) {
        T *x = at(0, i), *d_z = at(1, i), *d_x = at(2, i), *r = at(3, i), *d_r = at(4, i);
        switch (pass) {
          case Pass::kForward:
            return cuda::two_pass_forward<T>(x, shape, affine, act, {}, mean, var, workspace, nullptr);
          case Pass::kBackward:
            return cuda::two_pass_backward<T>(x, d_z, d_x, shape, var, affine, act, d_weight, d_bias, workspace,
                                              nullptr);
          case Pass::kResidualForward:
            return cuda::two_pass_residual_forward<T>(x, r, shape, affine, act, {}, mean, var, workspace, nullptr);
          default:
            return cuda::two_pass_residual_backward<T>(x, d_z, r, d_x, d_r, shape, var, affine, act, d_weight, d_bias,
                                                       workspace, nullptr);
        }
      };
      const auto launch = [&](const SlabPlan& plan, int i) {
        T *x = at(0, i), *d_z = at(1, i), *d_x = at(2, i), *r = at(3, i), *d_r = at(4, i);
        switch (pass) {
          case Pass::kForward:
            return cuda::slab_forward<T>(x, shape, affine, act, {}, mean, var, plan, workspace, nullptr);
          case Pass::kBackward:
            return cuda::slab_backward<T>(x, d_z, d_x, shape, var, affine, act, d_weight, d_bias, plan, workspace,
                                          nullptr);
          case Pass::kResidualForward:
            return cuda::slab_residual_forward<T>(x, r, shape, affine, act, {}, mean, var, plan, workspace, nullptr);
          default:
            return cuda::slab_residual_backward<T>(x, d_z, r, d_x, d_r, shape, var, affine, act, d_weight, d_bias, plan,
                                                   workspace, nullptr);
        }
      };
      const auto slab = [&](const SlabPlan& plan, int i) {
        if (!launch(plan, i)) throw std::runtime_error("the device can't hold all blocks of a plan");
      };
      /// Relative distance of an output from that of the two passes.
      const auto error = [&](T* got, const char* expected) {
        check(cudaMemset(sums, 0, 16));
        distance<<<512, 256>>>(got, reinterpret_cast<const T*>(expected), shape.numel(), sums);
        double host[2];
        check(cudaMemcpy(host, sums, 16, cudaMemcpyDeviceToHost));
        return std::sqrt(host[0] / host[1]);
      };
      plain(0);
      check(cudaMemcpy(want, at(forward ? 0 : 2, 0), bytes, cudaMemcpyDeviceToDevice));
      check(cudaMemcpy(want_d_r, at(4, 0), bytes, cudaMemcpyDeviceToDevice));
      const int repeats = std::max(3, std::min(20, static_cast<int>(400 / pass_us / 5)));
      const double plain_us = timer.median(9, repeats, plain);
      std::printf("%ldx%ldx%ldx%ld %s %s: two passes %.1f us %.2f\n", long(n), long(c), long(side), long(side),
                  contiguous ? "contiguous" : "channels_last", name_of(pass), plain_us, plain_us / pass_us);

      std::vector<Row> rows;
      for (const SlabPlan& plan : divisions(shape, sizeof(T), cuda::inputs_of(pass))) {
        if (forward) fill<<<1024, 256>>>(at(0, 0), shape.numel(), 1, 0.f);
        for (int i : {2, 4}) check(cudaMemsetAsync(at(i, 0), 0xff, bytes));
        slab(plan, 0);
        double apart = error(at(forward ? 0 : 2, 0), want);
        if (pass == Pass::kResidualBackward) apart += error(at(4, 0), want_d_r);
        if (!(apart < 2e-3)) {
          std::printf("WRONG by %.3g: ", apart);
          print("", {plan, 0}, pass_us);
          continue;
        }
        rows.push_back({plan, timer.median(3, 3, [&](int i) { slab(plan, i); })});
      }
      const auto faster = [](const Row& a, const Row& b) { return a.us < b.us; };
      std::sort(rows.begin(), rows.end(), faster);
      std::vector<Row> finalists;
      for (size_t i = 0; i < rows.size(); ++i) {
        SlabPlan plan = rows[i].plan;
        if (i >= 3 && !all) break;
        for (const int in_flight : {2, 3, 4}) {
          for (const int prefetch : {0, 6, 12}) {
            plan.in_flight = in_flight;
            plan.prefetch = prefetch;
            finalists.push_back({plan, timer.median(5, std::max(2, repeats / 2), [&](int k) { slab(plan, k); })});
          }
        }
      }
      std::sort(finalists.begin(), finalists.end(), faster);
      if (const auto policy = cuda::slab_plan(shape, sizeof(T), 0, pass)) {
        print("policy", {*policy, timer.median(11, repeats, [&](int k) { slab(*policy, k); })}, pass_us);
      }
      for (size_t i = 0; i < finalists.size() && (all || i < 5); ++i) {
        if (i < 5) finalists[i].us = timer.median(11, repeats, [&](int k) { slab(finalists[i].plan, k); });
        print("", finalists[i], pass_us);
      }
      std::fflush(stdout);
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  const std::string dtype = argc > 1 ? argv[1] : "bf16";
  const bool all = argc > 2 && std::strcmp(argv[2], "all") == 0;
  try {
    if (dtype == "bf16") sweep<BFloat16>(all);
    if (dtype == "fp16") sweep<Half>(all);
    if (dtype == "fp32") sweep<float>(all);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 0;
}
