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

#include "iabn/kernels/cuda/kernels.h"
#include "iabn/kernels/cuda/slab.h"
#include "iabn/kernels/cuda/two_pass.h"

namespace {

using namespace iabn;
using namespace iabn::kernels;
using cuda::Pass;
using cuda::SlabPlan;

constexpr size_t kPool = size_t{640} << 20;

void check(cudaError_t status) {
  if (status != cudaSuccess) throw std::runtime_error(cudaGetErrorString(status));
}

template <class T>
__global__ void fill(T* data, int64_t size, unsigned seed, float shift) {
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < size; i += int64_t{gridDim.x} * blockDim.x) {
    unsigned h = static_cast<unsigned>(i) * 2654435761u + seed;
    h = (h ^ (h >> 15)) * 2246822519u;
    h ^= h >> 13;
    data[i] = static_cast<T>(static_cast<float>(h) * 0x1p-31f - 1.f + shift);
  }
}

template <class T>
__global__ void distance(const T* a, const T* b, int64_t size, double* sums) {
  double difference = 0, magnitude = 0;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < size; i += int64_t{gridDim.x} * blockDim.x) {
    const double d = static_cast<double>(static_cast<float>(a[i])) - static_cast<double>(static_cast<float>(b[i]));
    difference += d == d ? d * d : 1e30;
    magnitude += static_cast<double>(static_cast<float>(b[i])) * static_cast<double>(static_cast<float>(b[i]));
  }
  for (int lane = 16; lane > 0; lane /= 2) {
    difference += __shfl_xor_sync(0xffffffffu, difference, lane);
    magnitude += __shfl_xor_sync(0xffffffffu, magnitude, lane);
  }
  if (threadIdx.x % 32 != 0) return;
  atomicAdd(sums, difference);
  atomicAdd(sums + 1, magnitude);
}

char* allocate(size_t bytes) {
  void* p = nullptr;
  check(cudaMalloc(&p, bytes));
  return static_cast<char*>(p);
}

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

template <class T>
void sweep(bool all) {
  const Timer timer;
  char* pool[3] = {allocate(kPool), allocate(kPool), allocate(kPool)};
  char* want = allocate(size_t{420} << 20);
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
    const double pass = static_cast<double>(bytes) / bytes_per_us;
    const auto at = [&](int i, int set) {
      return reinterpret_cast<T*>(pool[i] + static_cast<size_t>(set % sets) * bytes);
    };
    double best_total = 0, plain_total = 0, policy_total = 0;
    for (const Pass direction : {Pass::kForward, Pass::kBackward}) {
      const bool forward = direction == Pass::kForward;
      const auto reset = [&] {
        for (int set = 0; set < sets; ++set) {
          fill<<<1024, 256>>>(at(0, set), shape.numel(), 1, 0.f);
          fill<<<1024, 256>>>(at(1, set), shape.numel(), 2, 0.3f);
        }
      };
      const auto plain = [&](int i) {
        if (forward) return cuda::two_pass_forward<T>(at(0, i), shape, affine, act, {}, mean, var, workspace, nullptr);
        cuda::two_pass_backward<T>(at(0, i), at(1, i), at(2, i), shape, var, affine, act, d_weight, d_bias, workspace,
                                   nullptr);
      };
      const auto slab = [&](const SlabPlan& plan, int i) {
        if (forward)
          return cuda::slab_forward<T>(at(0, i), shape, affine, act, {}, mean, var, plan, workspace, nullptr);
        cuda::slab_backward<T>(at(0, i), at(1, i), at(2, i), shape, var, affine, act, d_weight, d_bias, plan, workspace,
                               nullptr);
      };
      reset();
      plain(0);
      check(cudaMemcpy(want, at(forward ? 0 : 2, 0), bytes, cudaMemcpyDeviceToDevice));
      const int repeats = std::max(3, std::min(20, static_cast<int>(400 / pass / 5)));
      const double plain_us = timer.median(9, repeats, plain);
      struct Row {
        SlabPlan plan;
        double us;
      };
      std::vector<Row> rows;
      std::vector<SlabPlan> plans;
      const auto policy = cuda::slab_plan(shape, sizeof(T), 0, direction);
      const int inputs = forward ? 1 : 2;
      for (const int row_bytes : {64, 128}) {
        if (contiguous && row_bytes != 128) continue;
        const int64_t channels = contiguous ? 1 : row_bytes / static_cast<int64_t>(sizeof(T));
        const int64_t slabs = (c + channels - 1) / channels;
        const int max_rows = contiguous ? 0 : 16384 / inputs / row_bytes;
        for (const int blocks : {4, 6, 8, 10, 12, 16, 22, 26, 33, 44, 62, 66, 132}) {
          const int64_t groups = std::min<int64_t>(132 / blocks, slabs);
          const int64_t rounds = (slabs + groups - 1) / groups;
          const double use = static_cast<double>(slabs) / static_cast<double>(rounds * 132) * blocks;
          if (use < 0.8 && blocks != 132) continue;
          const int64_t slab_bytes = shape.count() * channels * static_cast<int64_t>(sizeof(T)) * inputs;
          if (slab_bytes / blocks > (400 << 10) && blocks < 132) continue;
          if (slab_bytes / blocks < (12 << 10)) continue;
          SlabPlan plan;
          plan.row_bytes = contiguous ? 0 : row_bytes;
          plan.blocks = blocks;
          plan.groups = static_cast<int>(groups);
          std::vector<int> chunk_rows{0};
          if (!contiguous) {
            const int64_t chunks = (shape.count() + int64_t{blocks} * max_rows - 1) / (int64_t{blocks} * max_rows);
            const int even = static_cast<int>((shape.count() + blocks * chunks - 1) / (blocks * chunks));
            if (even < max_rows * 0.97) chunk_rows.push_back(even);
          }
          for (const int rows_ : chunk_rows) {
            for (const int in_flight : {2, 3, 4}) {
              for (const int ring : {0}) {
                plan.chunk_rows = rows_;
                plan.in_flight = in_flight;
                plan.ring_chunks = ring;
                plans.push_back(plan);
              }
            }
          }
        }
      }
      for (const SlabPlan& plan : plans) {
        if (plan.in_flight != 2) {  // checked with another depth
          rows.push_back({plan, timer.median(3, 3, [&](int i) { slab(plan, i); })});
          continue;
        }
        if (forward) fill<<<1024, 256>>>(at(0, 0), shape.numel(), 1, 0.f);
        if (!forward) check(cudaMemsetAsync(at(2, 0), 0xff, bytes));
        slab(plan, 0);
        check(cudaMemset(sums, 0, 16));
        distance<<<512, 256>>>(at(forward ? 0 : 2, 0), reinterpret_cast<T*>(want), shape.numel(), sums);
        double host[2];
        check(cudaMemcpy(host, sums, 16, cudaMemcpyDeviceToHost));
        const double error = std::sqrt(host[0] / host[1]);
        if (!(error < 2e-3)) {
          std::printf("WRONG row_bytes %d blocks %d groups %d chunk_rows %d in_flight %d ring %d: %.3g\n",
                      plan.row_bytes, plan.blocks, plan.groups, plan.chunk_rows, plan.in_flight, plan.ring_chunks,
                      error);
          continue;
        }
        rows.push_back({plan, timer.median(3, 3, [&](int i) { slab(plan, i); })});
      }
      std::sort(rows.begin(), rows.end(), [](const Row& a, const Row& b) { return a.us < b.us; });
      const size_t finalists = std::min<size_t>(rows.size(), 5);
      for (size_t i = 0; i < finalists; ++i)
        rows[i].us = timer.median(11, repeats, [&](int k) { slab(rows[i].plan, k); });
      std::sort(rows.begin(), rows.begin() + static_cast<long>(finalists),
                [](const Row& a, const Row& b) { return a.us < b.us; });
      std::printf("%ldx%ldx%ldx%ld %s %s: two passes %.1f us %.2f\n", long(n), long(c), long(side), long(side),
                  contiguous ? "contiguous" : "channels_last", forward ? "forward" : "backward", plain_us,
                  plain_us / pass);
      if (policy) {
        const double us = timer.median(11, repeats, [&](int k) { slab(*policy, k); });
        policy_total += us / pass;
        std::printf("   %7.1f us %.3f  policy: row_bytes %d blocks %d groups %d chunk_rows %d in_flight %d\n", us,
                    us / pass, policy->row_bytes, policy->blocks, policy->groups, policy->chunk_rows,
                    policy->in_flight);
      }
      for (size_t i = 0; i < (all ? rows.size() : finalists); ++i) {
        const SlabPlan& p = rows[i].plan;
        std::printf("   %7.1f us %.3f  row_bytes %d blocks %d groups %d chunk_rows %d in_flight %d ring %d\n",
                    rows[i].us, rows[i].us / pass, p.row_bytes, p.blocks, p.groups, p.chunk_rows, p.in_flight,
                    p.ring_chunks);
      }
      if (!rows.empty()) best_total += rows[0].us / pass;
      plain_total += plain_us / pass;
      std::fflush(stdout);
    }
    std::printf("== %ldx%ldx%ld %s: policy %.2f passes, best plans %.2f, two passes %.2f\n", long(n), long(c),
                long(side), contiguous ? "contiguous" : "channels_last", policy_total, best_total, plain_total);
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
