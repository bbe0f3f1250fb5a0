#include "iabn/kernels/cuda/exchange_area.h"

#include <map>
#include <memory>
#include <tuple>
#include <utility>
#include <vector>

#include "iabn/kernels/cuda/launch.h"

namespace iabn::kernels::cuda {
namespace {

constexpr size_t kKeptBytes = size_t{4} << 20;
constexpr size_t kHalf = kKeptBytes / 2;
// A program that keeps making streams or graphs must not fill the device.
constexpr size_t kMostOfStreams = 64, kMostOfGraphs = 64;

/// Null: no memory left. Allocates although a thread may be capturing: this has nothing to do with its graph.
char* allocate() {
  cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;
  check(cudaThreadExchangeStreamCaptureMode(&mode), "cudaThreadExchangeStreamCaptureMode");
  void* area = nullptr;
  const cudaError_t allocated = cudaMalloc(&area, kKeptBytes);
  check(cudaThreadExchangeStreamCaptureMode(&mode), "cudaThreadExchangeStreamCaptureMode");
  if (allocated == cudaErrorMemoryAllocation) {
    (void)cudaGetLastError();
    return nullptr;
  }
  check(allocated, "cudaMalloc");
  return static_cast<char*>(area);
}

/// Device, stream, and capture (0: none). The stream's identifier is never given to another one; while it is captured
/// the runtime does not tell it, and its handle serves: no identifier of a capture is given twice.
using Key = std::tuple<int, unsigned long long, unsigned long long>;

}  // namespace

struct ExchangeArea::Kept {
  std::mutex mutex;
  char* area = nullptr;
  int next = 0;             // half of the next launch
  size_t used[2] = {0, 0};  // bytes of a half that are not zero once what has been launched is done
};

/// Areas of streams are kept until the process ends, those of graphs until the graph is gone.
class ExchangeArea::Pool {
 public:
  static Pool& instance() {
    static Pool* pool = new Pool;  // never destroyed: graphs may go after static variables
    return *pool;
  }

  /// Null: none can be had.
  Kept* find_or_make(cudaStream_t stream) {
    int device = 0;
    unsigned long long id = 0, capture = 0;
    cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    cudaGraph_t graph = nullptr;
    check(cudaGetDevice(&device), "cudaGetDevice");
    check(cudaStreamGetCaptureInfo(stream, &status, &capture, &graph), "cudaStreamGetCaptureInfo");
    if (status == cudaStreamCaptureStatusInvalidated) return nullptr;
    const bool capturing = status == cudaStreamCaptureStatusActive;
    if (!capturing) check(cudaStreamGetId(stream, &id), "cudaStreamGetId");
    const Key key = capturing ? Key{device, reinterpret_cast<uintptr_t>(stream), capture + 1} : Key{device, id, 0};
    const std::lock_guard lock(mutex_);
    take_returned();
    const auto found = kept_.find(key);
    if (found != kept_.end()) return &found->second;
    if (capturing ? graphs_ >= kMostOfGraphs : kept_.size() - graphs_ >= kMostOfStreams) return nullptr;
    char* area = take(device);
    if (!area) return nullptr;
    if (capturing && !give_to_graph(graph, key)) {
      unused_[device].push_back(area);
      return nullptr;
    }
    // In kept_ first: whatever happens now, the area comes back with the graph.
    Kept& result = kept_[key];
    result.area = area;
    graphs_ += capturing;
    const cudaError_t cleared = cudaMemsetAsync(area, 0, kKeptBytes, stream);
    if (cleared != cudaSuccess && !capturing) {
      kept_.erase(key);
      unused_[device].push_back(area);
    }
    check(cleared, "cudaMemsetAsync");
    return &result;
  }

 private:
  char* take(int device) {
    std::vector<char*>& unused = unused_[device];
    if (unused.empty()) return allocate();
    char* area = unused.back();
    unused.pop_back();
    return area;
  }

  struct Owned {
    Key key;
    bool by_graph;
  };
  /// The area comes back when the graph, and what has been made of it, is gone. False: the graph can't own things.
  static bool give_to_graph(cudaGraph_t graph, const Key& key) {
    auto owned = std::make_unique<Owned>(Owned{key, true});
    cudaUserObject_t object = nullptr;
    if (cudaUserObjectCreate(&object, owned.get(), give_back, 1, cudaUserObjectNoDestructorSync) != cudaSuccess) {
      (void)cudaGetLastError();
      return false;
    }
    Owned* given = owned.release();
    if (cudaGraphRetainUserObject(graph, object, 1, cudaGraphUserObjectMove) == cudaSuccess) return true;
    (void)cudaGetLastError();
    given->by_graph = false;
    (void)cudaUserObjectRelease(object, 1);
    return false;
  }
  /// Called by a thread of the runtime, which must not wait for one that is in a call of the runtime.
  static void CUDART_CB give_back(void* object) {
    const std::unique_ptr<Owned> owned(static_cast<Owned*>(object));
    if (!owned->by_graph) return;
    Pool& pool = instance();
    const std::lock_guard lock(pool.returned_mutex_);
    pool.returned_.push_back(owned->key);
  }
  void take_returned() {
    std::vector<Key> returned;
    {
      const std::lock_guard lock(returned_mutex_);
      returned.swap(returned_);
    }
    for (const Key& key : returned) {
      const auto found = kept_.find(key);
      unused_[std::get<0>(key)].push_back(found->second.area);
      kept_.erase(found);
      --graphs_;
    }
  }

  std::mutex mutex_;
  std::map<Key, Kept> kept_;
  size_t graphs_ = 0;                         // of kept_
  std::map<int, std::vector<char*>> unused_;  // by device

  std::mutex returned_mutex_;
  std::vector<Key> returned_;
};

ExchangeArea::ExchangeArea(size_t bytes, void* workspace, cudaStream_t stream)
    : bytes_(bytes), words_(static_cast<uint64_t*>(workspace)) {
  if (bytes <= kHalf) kept_ = Pool::instance().find_or_make(stream);
  if (!kept_) {
    check(cudaMemsetAsync(workspace, 0, bytes, stream), "cudaMemsetAsync");
    return;
  }
  order_ = std::unique_lock(kept_->mutex);
  const int other = 1 - kept_->next;
  words_ = reinterpret_cast<uint64_t*>(kept_->area + static_cast<size_t>(kept_->next) * kHalf);
  to_clear_ = kept_->area + static_cast<size_t>(other) * kHalf;
  bytes_to_clear_ = kept_->used[other];
}

void ExchangeArea::launched() {
  if (!kept_) return;
  const int other = 1 - kept_->next;
  kept_->used[kept_->next] = bytes_;
  kept_->used[other] = 0;
  kept_->next = other;
}

}  // namespace iabn::kernels::cuda
