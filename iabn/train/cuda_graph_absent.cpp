// Stands in for cuda_graph.cpp in a build without CUDA.

#include <stdexcept>

#include "iabn/train/cuda_graph.h"

namespace iabn::train {

struct CudaGraph::State {};

CudaGraph::CudaGraph(c10::Device) {
  throw std::invalid_argument("this build of iabn has no CUDA graphs; build it with -DIABN_CUDA=ON");
}
CudaGraph::~CudaGraph() = default;
void CudaGraph::run(const std::function<void()>&) {}
void CudaGraph::capture(const std::function<void()>&) {}
bool CudaGraph::captured() const { return false; }
void CudaGraph::replay() {}

}  // namespace iabn::train
