#include "iabn/train/schedule.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>

namespace iabn::train {

double schedule_factor(const ScheduleConfig& schedule, int64_t epoch, int64_t step) {
  const int64_t t = schedule.mode == "step" ? step : epoch;
  const ScheduleConfig::Params& params = schedule.params;
  if (schedule.type == "constant") return 1.0;
  if (schedule.type == "step") {
    const int64_t drops = t / params.step_size;
    return std::pow(params.gamma, static_cast<double>(drops));
  }
  if (schedule.type == "multistep") {
    const auto passed = std::count_if(params.milestones.begin(), params.milestones.end(),
                                      [t](int64_t milestone) { return milestone <= t; });
    return std::pow(params.gamma, static_cast<double>(passed));
  }
  if (schedule.type == "exponential") return std::pow(params.gamma, static_cast<double>(t));
  if (schedule.type == "linear") {
    // Below 0 the optimiser would climb.
    return std::max(0.0, params.alpha * static_cast<double>(t) + params.beta);
  }
  throw std::invalid_argument("unknown schedule type " + schedule.type);
}

}  // namespace iabn::train
