// Passes of the plain two-pass kernels: forward 3 (statistics 1, apply 2), backward 5 (reduce 2, apply 3) by byte
// count.
//
// One pass = bytes of the tensor / copy bandwidth, reads plus writes, measured in the same run. Buffers rotate over
// more than three times the L2, directions are interleaved, each figure is the median. "graph" replays the same calls
// as a CUDA graph, which leaves out the host's share of small launches.
//
// Usage: cuda_two_pass_bench [rounds]

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <stdexcept>
#include <vector>

#include "iabn/kernels/cuda/kernels.h"

namespace {

using namespace iabn;
using namespace iabn::kernels;

void check(cudaError_t status) {
  if (status != cudaSuccess) throw std::runtime_error(cudaGetErrorString(status));
}

template <class T>
__global__ void fill(T* data, int64_t size, unsigned seed) {
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < size; i += int64_t{gridDim.x} * blockDim.x) {
    unsigned h = static_cast<unsigned>(i) * 2654435761u + seed;
    h = (h ^ (h >> 15)) * 2246822519u;
    h ^= h >> 13;
    data[i] = static_cast<T>(static_cast<float>(h) * 0x1p-31f - 1.f);
  }
}

struct Buffer {
  explicit Buffer(size_t bytes) { check(cudaMalloc(&p, bytes)); }
  ~Buffer() { cudaFree(p); }
  Buffer(const Buffer&) = delete;
  void* p = nullptr;
};

class Timer {
 public:
  explicit Timer(cudaStream_t stream) : stream_(stream) {
    check(cudaEventCreate(&start_));
    check(cudaEventCreate(&stop_));
  }
  double microseconds(const std::function<void()>& work) {
    check(cudaEventRecord(start_, stream_));
    work();
    check(cudaEventRecord(stop_, stream_));
    check(cudaEventSynchronize(stop_));
    float ms = 0;
    check(cudaEventElapsedTime(&ms, start_, stop_));
    return ms * 1e3;
  }

 private:
  cudaStream_t stream_;
  cudaEvent_t start_{}, stop_{};
};

double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + values.size() / 2, values.end());
  return values[values.size() / 2];
}

cudaGraphExec_t capture(cudaStream_t stream, const std::function<void()>& work) {
  cudaGraph_t graph;
  cudaGraphExec_t executable;
  check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
  work();
  check(cudaStreamEndCapture(stream, &graph));
  check(cudaGraphInstantiate(&executable, graph, 0));
  check(cudaGraphDestroy(graph));
  return executable;
}

/// Bytes per microsecond, read plus written.
double copy_bandwidth(cudaStream_t stream, int rounds) {
  const size_t bytes = size_t{512} << 20;
  Buffer from(bytes), to(bytes);
  fill<float><<<1024, 256, 0, stream>>>(static_cast<float*>(from.p), bytes / 4, 1);
  Timer timer(stream);
  std::vector<double> times;
  for (int i = 0; i < rounds + 3; ++i) {
    const double t =
        timer.microseconds([&] { check(cudaMemcpyAsync(to.p, from.p, bytes, cudaMemcpyDeviceToDevice, stream)); });
    if (i >= 3) times.push_back(t);
  }
  return 2.0 * bytes / median(times);
}

template <class T>
void measure(const char* type, int64_t n, int64_t c, int64_t s, double bandwidth, cudaStream_t stream, int rounds) {
  using A = accumulate_t<T>;
  for (const Layout layout : {Layout::kChannelsLast, Layout::kContiguous}) {
    const Shape shape{n, c, s, layout};
    const size_t bytes = shape.numel() * sizeof(T);
    const int copies = static_cast<int>(std::max<size_t>(2, (size_t{160} << 20) / bytes + 1));
    const int repeats = std::max(copies, static_cast<int>(200 / (bytes / bandwidth * 3)));
    std::vector<Buffer*> x, d_z, d_x;
    for (int i = 0; i < copies; ++i) {
      for (auto* list : {&x, &d_z, &d_x}) {
        list->push_back(new Buffer(bytes));
        fill<T><<<1024, 256, 0, stream>>>(static_cast<T*>(list->back()->p), shape.numel(), 17u * i);
      }
    }
    Buffer numbers(6 * c * sizeof(A)), workspace(cuda::workspace_bytes<T>(shape));
    A* at = static_cast<A*>(numbers.p);
    fill<A><<<64, 256, 0, stream>>>(at, 6 * c, 5);
    const Affine<A> affine{at, at + c, GammaMode::kLegacy, A(1e-5)};
    A* mean = at + 2 * c;
    A* var = at + 3 * c;
    const ActivationSpec act{Activation::kLeakyReLU, 0.01};
    const auto forward = [&] {
      for (int i = 0; i < repeats; ++i) {
        cuda::forward<T>(static_cast<T*>(x[i % copies]->p), shape, affine, act, {}, mean, var, workspace.p, stream);
      }
    };
    const auto backward = [&] {
      for (int i = 0; i < repeats; ++i) {
        cuda::backward<T>(static_cast<T*>(x[i % copies]->p), static_cast<T*>(d_z[i % copies]->p),
                          static_cast<T*>(d_x[i % copies]->p), shape, var, affine, act, at + 4 * c, at + 5 * c,
                          workspace.p, stream);
      }
    };
    const cudaGraphExec_t graphs[2] = {capture(stream, forward), capture(stream, backward)};
    const std::function<void()> works[4] = {forward, backward, [&] { check(cudaGraphLaunch(graphs[0], stream)); },
                                            [&] { check(cudaGraphLaunch(graphs[1], stream)); }};
    Timer timer(stream);
    std::vector<double> times[4];
    for (int round = 0; round < rounds + 2; ++round) {
      for (int w = 0; w < 4; ++w) {
        const double t = timer.microseconds(works[w]) / repeats;
        if (round >= 2) times[w].push_back(t);
      }
    }
    const double pass = bytes / bandwidth;
    const double f = median(times[0]), b = median(times[1]), fg = median(times[2]), bg = median(times[3]);
    std::printf(
        "[%lld,%lld,%lld] %-5s %s  us %8.2f %8.2f  passes %5.2f + %5.2f = %5.2f   graph %5.2f + %5.2f = %5.2f\n",
        static_cast<long long>(n), static_cast<long long>(c), static_cast<long long>(s), type,
        layout == Layout::kChannelsLast ? "NHWC" : "NCHW", f, b, f / pass, b / pass, (f + b) / pass, fg / pass,
        bg / pass, (fg + bg) / pass);
    std::fflush(stdout);
    for (const cudaGraphExec_t graph : graphs) check(cudaGraphExecDestroy(graph));
    for (auto* list : {&x, &d_z, &d_x}) {
      for (Buffer* buffer : *list) delete buffer;
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  const int rounds = argc > 1 ? std::atoi(argv[1]) : 15;
  cudaStream_t stream;
  check(cudaStreamCreate(&stream));
  cudaDeviceProp device;
  check(cudaGetDeviceProperties(&device, 0));
  const double bandwidth = copy_bandwidth(stream, rounds);
  std::printf("%s, copy %.3f TB/s\n", device.name, bandwidth * 1e-6);
  const int64_t shapes[][3] = {{128, 256, 3136}, {128, 64, 12544}, {128, 512, 784},
                               {128, 1024, 196}, {128, 2048, 49},  {32, 256, 196}};
  for (const auto& [n, c, s] : shapes) {
    measure<BFloat16>("bf16", n, c, s, bandwidth, stream, rounds);
    measure<Half>("fp16", n, c, s, bandwidth, stream, rounds);
    measure<float>("fp32", n, c, s, bandwidth, stream, rounds);
  }
  return 0;
}
