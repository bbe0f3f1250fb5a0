#pragma once

// Learning-rate schedules: what the initial rates are multiplied by.

#include <cstdint>

#include "iabn/train/config.h"

namespace iabn::train {

/// Where a run is.
struct ScheduleTime {
  int64_t epoch = 0;  // finished epochs
  int64_t step = 0;   // finished steps of the whole run
  int64_t steps_per_epoch = 1;
};

/// With t the number of finished epochs (mode "epoch") or steps of the whole run (mode "step"), and T what t will be at
/// the run's end:
///   constant 1 | step gamma^floor(t / step_size) | multistep gamma^(number of milestones <= t) |
///   exponential gamma^t | linear max(0, alpha*t + beta) | cosine (1 + cos(pi*t/T)) / 2 |
///   poly (1 - t/T)^power
/// times min(1, (step + 1) / (warmup_epochs * steps_per_epoch)).
double schedule_factor(const ScheduleConfig& schedule, const ScheduleTime& time);

}  // namespace iabn::train
