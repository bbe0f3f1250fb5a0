#pragma once

// When the processes of a job stop, and when they save: both at the same step of all.

#include <cstdint>
#include <optional>

#include "iabn/train/clock.h"
#include "iabn/train/distributed.h"
#include "iabn/train/interrupt.h"

namespace iabn::train {

/// Alone, a process decides by itself at any step, and interrupts are noted while this lives. Several agree every 16
/// steps, because it costs a round trip.
class Agreement {
 public:
  /// snapshot_minutes: between two snapshots within an epoch, by rank 0's clock; 0: none.
  Agreement(const World& world, double snapshot_minutes);

  /// To be asked before every step: has a process been interrupted?
  bool stop(int64_t step);
  /// The same at an epoch's end, at once.
  bool stop_now();
  /// To be told after every step. From the first one on a process of several notes interrupts until it ends: torchrun
  /// sends SIGTERM to the others as soon as one has ended. Before, there is nothing to save, and the layers' first pass
  /// may wait long for a process that has ended. Signals of five seconds count as one: a scheduler signals all
  /// processes of a job, and torchrun passes its own on.
  void step_done() const;
  /// To be asked after every step.
  bool snapshot_due(int64_t step) const;
  void saved() { since_snapshot_ = Clock(); }

 private:
  const World& world_;
  double snapshot_minutes_;
  std::optional<InterruptGuard> alone_;
  Clock since_snapshot_;
  bool stopping_ = false;
};

}  // namespace iabn::train
