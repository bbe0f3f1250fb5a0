#pragma once

// Learning-rate schedules: what the initial rates are multiplied by.

#include <cstdint>

#include "iabn/train/config.h"

namespace iabn::train {

/// With t the number of finished epochs (mode "epoch") or steps of the whole run (mode "step"):
///   constant 1 | step gamma^floor(t / step_size) | multistep gamma^(number of milestones <= t) |
///   exponential gamma^t | linear max(0, alpha*t + beta)
double schedule_factor(const ScheduleConfig& schedule, int64_t epoch, int64_t step);

}  // namespace iabn::train
