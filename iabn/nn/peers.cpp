#include "iabn/nn/peers.h"

#include <cstring>
#include <list>
#include <mutex>
#include <utility>

#include <ATen/ops/empty.h>

#include "iabn/nn/error_text.h"
#include "iabn/nn/ops.h"

namespace iabn::nn {
namespace {

constexpr int kMostProcesses = 8;
constexpr int64_t kCardBytes = 128;

struct Known {
  c10::weak_intrusive_ptr<c10d::ProcessGroup> group;
  int64_t channels;
  std::vector<int64_t> peers;
};

std::mutex& mutex() {
  static std::mutex instance;
  return instance;
}
std::list<Known>& all_known() {
  static std::list<Known> instance;
  return instance;
}

using Bytes = std::vector<uint8_t>;

/// What each rank gives, on all, in the order of the ranks.
std::vector<Bytes> gather(const ProcessGroup& group, const std::string& what, const Bytes& own) {
  const auto store = group->getStore();
  const auto key = [&](int rank) {
    return "iabn/peers/" + group->getGroupName() + "/" + what + "/" + std::to_string(rank);
  };
  store->set(key(group->getRank()), own);
  std::vector<Bytes> all;
  for (int rank = 0; rank < group->getSize(); ++rank) all.push_back(store->get(key(rank)));
  return all;
}

/// Agrees on why it can't be: the first rank's reason.
std::string first_reason(const ProcessGroup& group, const std::string& what, const std::string& own) {
  for (const Bytes& bytes : gather(group, what, Bytes(own.begin(), own.end()))) {
    if (!bytes.empty()) return {bytes.begin(), bytes.end()};
  }
  return {};
}

}  // namespace

std::string use_peer_memory(const ProcessGroup& group, int device, const PeerMemoryOptions& options) {
  TORCH_CHECK(group && group->getStore(), "use_peer_memory: needs a process group with a store");
  TORCH_CHECK(options.channels > 0 && options.spare_multiprocessors >= 0 && options.timeout.count() > 0,
              "use_peer_memory: channels and timeout must be above 0, spare_multiprocessors not below");
  const int rank = group->getRank(), size = group->getSize();
  if (size < 2 || size > kMostProcesses) return "of " + std::to_string(size) + " processes; 2 to 8 can";
  const std::string who = "rank " + std::to_string(rank);

  Bytes card(kCardBytes);
  at::Tensor card_tensor = at::empty({kCardBytes}, at::kByte);
  int64_t own_area = 0;
  std::string reason;
  try {
    own_area = ops::peer_area(card_tensor, device, options.channels, size);
    std::memcpy(card.data(), card_tensor.const_data_ptr(), kCardBytes);
  } catch (const std::exception& error) {
    reason = who + ": " + text_of(error);
  }
  const std::vector<Bytes> cards = gather(group, "card", card);
  if (auto agreed = first_reason(group, "area", reason); !agreed.empty()) return agreed;

  std::vector<int64_t> peers{rank, options.spare_multiprocessors, options.channels, options.timeout.count()};
  for (int other = 0; other < size; ++other) {
    std::memcpy(card_tensor.mutable_data_ptr(), cards[static_cast<size_t>(other)].data(), kCardBytes);
    const int64_t area = other == rank ? own_area : ops::peer_open(card_tensor, device);
    if (area == 0 && reason.empty()) {
      reason = who + " can't reach the GPU of rank " + std::to_string(other) + " from its own";
    }
    peers.push_back(area);
  }
  if (auto agreed = first_reason(group, "open", reason); !agreed.empty()) return agreed;
  const std::lock_guard lock(mutex());
  all_known().push_back({c10::weak_intrusive_ptr<c10d::ProcessGroup>(group), options.channels, std::move(peers)});
  return {};
}

const std::vector<int64_t>* peers_of(const ProcessGroup& group, const at::Tensor& x) {
  if (!x.is_cuda() || x.scalar_type() == at::kDouble) return nullptr;
  const std::lock_guard lock(mutex());
  for (const Known& known : all_known()) {
    if (known.group.lock() == group) return x.size(1) <= known.channels ? &known.peers : nullptr;
  }
  return nullptr;
}

}  // namespace iabn::nn
