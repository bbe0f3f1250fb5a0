#include "iabn/train/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <stdexcept>

namespace iabn::train {
namespace {

double factor_after_warmup(const ScheduleConfig& schedule, const ScheduleTime& time) {
  const bool by_step = schedule.mode == "step";
  const int64_t t = by_step ? time.step : time.epoch;
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
  const int64_t end = schedule.epochs * (by_step ? time.steps_per_epoch : 1);
  const double done = static_cast<double>(t) / static_cast<double>(end);
  if (schedule.type == "cosine") return 0.5 * (1 + std::cos(std::numbers::pi * done));
  if (schedule.type == "poly") return std::pow(std::max(0.0, 1 - done), params.power);
  throw std::invalid_argument("unknown schedule type " + schedule.type);
}

}  // namespace

double schedule_factor(const ScheduleConfig& schedule, const ScheduleTime& time) {
  const double warmup_steps = schedule.warmup_epochs * static_cast<double>(time.steps_per_epoch);
  const double done = static_cast<double>(time.step + 1);
  return factor_after_warmup(schedule, time) * (done < warmup_steps ? done / warmup_steps : 1.0);
}

}  // namespace iabn::train
