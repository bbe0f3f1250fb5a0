#include "iabn/train/progress.h"

#include <algorithm>
#include <cinttypes>
#include <cmath>
#include <utility>

#include <sys/ioctl.h>
#include <unistd.h>

namespace iabn::train {
namespace {

template <class... Args>
std::string format(const char* pattern, Args... args) {
  char text[256];
  std::snprintf(text, sizeof text, pattern, args...);
  return text;
}

}  // namespace

std::string duration(double seconds) {
  const auto whole = static_cast<int64_t>(std::ceil(std::max(0.0, seconds)));
  const int64_t hours = whole / 3600, minutes = whole / 60 % 60;
  if (hours > 0) return format("%" PRId64 ":%02" PRId64 ":%02" PRId64, hours, minutes, whole % 60);
  return format("%" PRId64 ":%02" PRId64, minutes, whole % 60);
}

std::string progress_line(const ProgressState& state, int bar_width) {
  std::string line = format("epoch %" PRId64 "/%" PRId64 " ", state.epoch, state.epochs);
  if (bar_width > 0) {
    const double share = static_cast<double>(state.step) / static_cast<double>(std::max<int64_t>(state.steps, 1));
    const auto filled = static_cast<size_t>(share * bar_width);
    std::string bar(filled, '=');
    if (filled < static_cast<size_t>(bar_width)) bar += '>';
    bar.resize(static_cast<size_t>(bar_width), ' ');
    line += "[" + bar + "] ";
  }
  return line + format("%" PRId64 "/%" PRId64 " | %.0f images/s | ", state.step, state.steps, state.images_per_second) +
         duration(state.seconds_left) +
         format(" left | data %.0f %% | loss %.4f | ", 100 * state.wait_share, state.loss) + state.measure +
         format(" %.2f %%", state.score);
}

Progress::Progress(std::FILE* out, int64_t every)
    : out_(out), terminal_(::isatty(::fileno(out)) != 0), every_(std::max<int64_t>(every, 1)) {}

Progress::~Progress() {
  if (!drawn_) return;
  std::fputc('\n', out_);
  std::fflush(out_);
}

bool Progress::due(int64_t step) const {
  return terminal_ ? std::chrono::steady_clock::now() >= next_draw_ : step % every_ == 0;
}

void Progress::draw(const ProgressState& state) {
  if (!terminal_) {
    std::fprintf(out_, "%s\n", progress_line(state, 0).c_str());
    std::fflush(out_);
    return;
  }
  winsize size = {};
  const bool known = ::ioctl(::fileno(out_), TIOCGWINSZ, &size) == 0 && size.ws_col > 0;
  const size_t columns = known ? size.ws_col : 80;
  // A line that wraps could not be redrawn: the bar gives way first, then the end of the text.
  const size_t text_columns = progress_line(state, 0).size() + 4;
  const int bar = columns > text_columns + 8 ? static_cast<int>(std::min<size_t>(columns - text_columns, 30)) : 0;
  std::fprintf(out_, "\r\033[K%s", progress_line(state, bar).substr(0, columns - 1).c_str());
  std::fflush(out_);
  drawn_ = true;
  next_draw_ = std::chrono::steady_clock::now() + std::chrono::milliseconds(250);
}

void Progress::print(const std::string& line) {
  if (std::exchange(drawn_, false)) std::fputs("\r\033[K", out_);
  std::fprintf(out_, "%s\n", line.c_str());
  std::fflush(out_);
}

}  // namespace iabn::train
