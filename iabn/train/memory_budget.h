#pragma once

// Bytes that several may hold together.

#include <atomic>
#include <cstdint>
#include <utility>

namespace iabn::train {

/// For any thread. Outlives its shares.
class MemoryBudget {
 public:
  explicit MemoryBudget(int64_t bytes) : left_(bytes) {}
  MemoryBudget(const MemoryBudget&) = delete;
  MemoryBudget& operator=(const MemoryBudget&) = delete;

  /// What one holds, until it is destroyed or assigned to.
  class Share {
   public:
    Share() = default;
    Share(Share&& other) noexcept
        : budget_(std::exchange(other.budget_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
    Share& operator=(Share&& other) noexcept {
      std::swap(budget_, other.budget_);
      std::swap(bytes_, other.bytes_);
      other.give_back();
      return *this;
    }
    ~Share() { give_back(); }
    explicit operator bool() const { return budget_ != nullptr; }

   private:
    friend class MemoryBudget;
    Share(MemoryBudget* budget, int64_t bytes) : budget_(budget), bytes_(bytes) {}
    void give_back() {
      if (auto* budget = std::exchange(budget_, nullptr)) budget->left_ += bytes_;
    }

    MemoryBudget* budget_ = nullptr;
    int64_t bytes_ = 0;
  };

  /// Empty where less is left; `forced` takes it all the same.
  Share take(int64_t bytes, bool forced) {
    if ((left_ -= bytes) >= 0 || forced) return {this, bytes};
    left_ += bytes;
    return {};
  }

 private:
  std::atomic<int64_t> left_;
};

}  // namespace iabn::train
