// Areas that the GPUs of several processes write into: allocated in one process, opened in the others.

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <string>

#include "iabn/kernels/cuda/launch.h"
#include "iabn/kernels/cuda/peers.h"

namespace iabn::kernels::cuda {
namespace {

constexpr int kPendingByte = 0xff;

/// Of the running system, the same in all of its containers; empty where there is none. Without streams, whose parts of
/// libstdc++ need a newer glibc than the wheel promises.
std::string host_identifier() {
  char text[sizeof(PeerCard::host) + 1] = {};
  if (std::FILE* file = std::fopen("/proc/sys/kernel/random/boot_id", "r")) {
    const size_t length = std::fread(text, 1, sizeof(text) - 1, file);
    text[length] = 0;
    std::fclose(file);
  }
  return text;
}

PeerCard own_card() {
  PeerCard card{};
  int device = 0;
  cudaDeviceProp properties;
  check(cudaGetDevice(&device), "cudaGetDevice");
  check(cudaGetDeviceProperties(&properties, device), "cudaGetDeviceProperties");
  std::copy_n(properties.uuid.bytes, sizeof(card.device), card.device);
  const std::string host = host_identifier();
  std::copy(host.begin(), host.end(), card.host);
  return card;
}

}  // namespace

uint64_t* new_peer_area(int64_t channels, int size, PeerCard& card) {
  const size_t header = Peers::kHeaderWords * sizeof(uint64_t);
  const size_t words = static_cast<size_t>(2 * channels * size * Peers::kWords) * sizeof(uint64_t);
  card = own_card();
  void* area = nullptr;
  check(cudaMalloc(&area, header + words), "cudaMalloc");
  check(cudaMemset(area, kPendingByte, header + words), "cudaMemset");
  check(cudaMemset(area, 0, header), "cudaMemset");
  check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
  check(cudaIpcGetMemHandle(&card.handle, area), "cudaIpcGetMemHandle");
  return static_cast<uint64_t*>(area);
}

uint64_t* open_peer_area(const PeerCard& card) {
  const PeerCard own = own_card();
  if (own.host[0] == 0 || std::memcmp(own.host, card.host, sizeof(own.host)) != 0) return nullptr;
  if (std::memcmp(own.device, card.device, sizeof(own.device)) == 0) return nullptr;
  void* area = nullptr;
  if (cudaIpcOpenMemHandle(&area, card.handle, cudaIpcMemLazyEnablePeerAccess) != cudaSuccess) {
    (void)cudaGetLastError();
    return nullptr;
  }
  return static_cast<uint64_t*>(area);
}

}  // namespace iabn::kernels::cuda
