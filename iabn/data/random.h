#pragma once

// Random numbers that depend on what they are for, not on when they are drawn: the key is (seed, epoch, index), so any
// thread can prepare any sample, and an epoch can be resumed in the middle.

#include <cmath>
#include <cstdint>
#include <numbers>

namespace iabn::data {

/// SplitMix64 (Steele, Lea, Flood 2014): a counter put through a mixing function.
class Random {
 public:
  Random(uint64_t seed, uint64_t epoch, uint64_t index) : state_(mix(mix(mix(seed) + epoch) + index)) {}

  uint64_t bits() { return mix(state_ += kStep); }

  /// In [0, 1), 53 random bits.
  double uniform() { return static_cast<double>(bits() >> 11) * 0x1p-53; }

  double uniform(double low, double high) { return low + (high - low) * uniform(); }

  /// In [0, n), for 1 <= n < 2^32: the bias is then below n / 2^64.
  int64_t below(int64_t n) {
    const uint64_t high = bits() >> 32;
    const uint64_t low = bits() >> 32;
    const auto range = static_cast<uint64_t>(n);
    return static_cast<int64_t>((high * range + ((low * range) >> 32)) >> 32);
  }

  bool coin() { return (bits() >> 63) != 0; }

  /// Standard normal (Box and Muller).
  double normal() {
    const double radius = std::sqrt(-2.0 * std::log(1.0 - uniform()));
    return radius * std::cos(2.0 * std::numbers::pi * uniform());
  }

 private:
  static constexpr uint64_t kStep = 0x9E3779B97F4A7C15u;

  static uint64_t mix(uint64_t z) {
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
  }

  uint64_t state_;
};

}  // namespace iabn::data
