#include "iabn/train/agreement.h"

namespace iabn::train {
namespace {

constexpr int64_t kStepsBetween = 16;

}  // namespace

Agreement::Agreement(const World& world, double snapshot_minutes) : world_(world), snapshot_minutes_(snapshot_minutes) {
  if (!world.group) alone_.emplace();
}

void Agreement::step_done() const {
  if (!world_.group) return;
  static const InterruptGuard kUntilTheEnd(std::chrono::seconds(5));
}

bool Agreement::stop(int64_t step) {
  if (!world_.group) return pending_interrupt() != 0;
  if (step % kStepsBetween == 0) stop_now();
  return stopping_;
}

bool Agreement::stop_now() {
  if (!stopping_) stopping_ = world_.any(pending_interrupt() != 0);
  return stopping_;
}

bool Agreement::snapshot_due(int64_t step) const {
  if (snapshot_minutes_ <= 0 || (world_.group && step % kStepsBetween != 0)) return false;
  return world_.any(world_.first() && since_snapshot_.seconds() > 60 * snapshot_minutes_);
}

}  // namespace iabn::train
