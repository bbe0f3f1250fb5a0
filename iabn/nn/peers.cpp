#include "iabn/nn/peers.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <list>
#include <mutex>
#include <utility>

#include <ATen/ops/empty.h>

#include "iabn/nn/error_text.h"
#include "iabn/nn/ops.h"

namespace iabn::nn {
namespace {

constexpr int64_t kCardBytes = 128;

struct Known {
  c10::weak_intrusive_ptr<c10d::ProcessGroup> group;
  int device;
  int64_t channels;
  std::vector<int64_t> peers;
};

std::mutex& mutex() {
  static std::mutex instance;
  return instance;
}
// Entries stay, because nodes of autograd point into them.
std::list<Known>& all_known() {
  static std::list<Known> instance;
  return instance;
}

using Bytes = std::vector<uint8_t>;

/// One call of use_peer_memory as the ranks of a group see it.
class Meeting {
 public:
  explicit Meeting(const ProcessGroup& group) : group_(group), store_(group->getStore()) {
    prefix_ = "iabn/peers/" + group->getGroupName() + "/";
    prefix_ += std::to_string(store_->add(prefix_ + "calls/" + std::to_string(group->getRank()), 1)) + "/";
  }
  /// What each rank gives, on all, in the order of the ranks.
  std::vector<Bytes> gather(const std::string& what, const Bytes& own) const {
    store_->set(key(what, group_->getRank()), own);
    std::vector<Bytes> all;
    for (int rank = 0; rank < group_->getSize(); ++rank) {
      try {
        all.push_back(store_->get(key(what, rank)));
      } catch (const std::exception& error) {
        TORCH_CHECK(false, "use_peer_memory: rank ", group_->getRank(), " of the group waited in vain for rank ", rank,
                    ", which has ended or does not call it: ", text_of(error));
      }
    }
    return all;
  }
  /// The first rank's that has one.
  std::string first_reason(const std::string& what, const std::string& own) const {
    for (const Bytes& bytes : gather(what, Bytes(own.begin(), own.end()))) {
      if (!bytes.empty()) return {bytes.begin(), bytes.end()};
    }
    return {};
  }

 private:
  std::string key(const std::string& what, int rank) const { return prefix_ + what + "/" + std::to_string(rank); }

  const ProcessGroup& group_;
  c10::intrusive_ptr<c10d::Store> store_;
  std::string prefix_;
};

/// NCCL reads the variable; it counts more than what a group's options say.
std::string refused_by_environment(int spare) {
  const char* text = std::getenv("NCCL_MAX_CTAS");
  if (text == nullptr || (std::atoi(text) > 0 && std::atoi(text) <= spare)) return {};
  return "NCCL_MAX_CTAS is " + std::string(text) + ", the layers leave " + std::to_string(spare) + " multiprocessors";
}

}  // namespace

std::string use_peer_memory(const ProcessGroup& group, int device, const PeerMemoryOptions& options) {
  TORCH_CHECK(group && group->getStore(), "use_peer_memory: needs a process group with a store");
  const int rank = group->getRank(), size = group->getSize();
  if (size < 2 || size > PeerMemoryOptions::kMostProcesses) {
    return "the group has " + std::to_string(size) + " processes, 2 to " +
           std::to_string(PeerMemoryOptions::kMostProcesses) + " can";
  }
  const std::string who = "rank " + std::to_string(rank);
  const Meeting meeting(group);

  // What another process must know: the card, and the channels, from which it computes addresses.
  Bytes card(kCardBytes + sizeof(options.channels));
  std::memcpy(card.data() + kCardBytes, &options.channels, sizeof(options.channels));
  at::Tensor card_tensor = at::empty({kCardBytes}, at::kByte);
  int64_t own_area = 0;
  std::string reason = options.refusal;
  if (options.channels < 1 || options.spare_multiprocessors < 1 || options.timeout.count() < 1) {
    reason = who + ": channels, spare_multiprocessors and timeout must be above 0";
  }
  if (reason.empty()) reason = refused_by_environment(options.spare_multiprocessors);
  if (reason.empty()) {
    try {
      own_area = ops::peer_area(card_tensor, device, options.channels, size);
      std::memcpy(card.data(), card_tensor.const_data_ptr(), kCardBytes);
    } catch (const std::exception& error) {
      reason = who + ": " + text_of(error);
    }
  }
  const std::vector<Bytes> cards = meeting.gather("card", card);
  if (auto agreed = meeting.first_reason("area", reason); !agreed.empty()) return agreed;

  std::vector<int64_t> peers{rank, options.spare_multiprocessors, options.channels, options.timeout.count()};
  for (int other = 0; other < size && reason.empty(); ++other) {
    const Bytes& its_card = cards[static_cast<size_t>(other)];
    if (!std::equal(card.begin() + kCardBytes, card.end(), its_card.begin() + kCardBytes, its_card.end())) {
      reason = who + " and rank " + std::to_string(other) + " want room for different numbers of channels";
      break;
    }
    int64_t area = own_area;
    if (other != rank) {
      std::memcpy(card_tensor.mutable_data_ptr(), its_card.data(), kCardBytes);
      try {
        area = ops::peer_open(card_tensor, device);
        if (area == 0) {
          reason = who + " and rank " + std::to_string(other) +
                   " are on different hosts, share a GPU, or their GPUs can't reach each other's memory";
        }
      } catch (const std::exception& error) {
        reason = who + ": " + text_of(error);
      }
    }
    peers.push_back(area);
  }
  if (auto agreed = meeting.first_reason("open", reason); !agreed.empty()) return agreed;
  const std::lock_guard lock(mutex());
  all_known().push_front(
      {c10::weak_intrusive_ptr<c10d::ProcessGroup>(group), device, options.channels, std::move(peers)});
  return {};
}

const std::vector<int64_t>* peers_of(const ProcessGroup& group, const at::Tensor& x) {
  if (!x.is_cuda() || x.scalar_type() == at::kDouble) return nullptr;
  const std::lock_guard lock(mutex());
  for (const Known& known : all_known()) {
    if (known.group.lock() != group) continue;
    return x.device().index() == known.device && x.size(1) <= known.channels ? &known.peers : nullptr;
  }
  return nullptr;
}

}  // namespace iabn::nn
