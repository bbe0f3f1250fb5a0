#pragma once

// What a person sees of an epoch while it runs: one line that is redrawn on a terminal, plain lines elsewhere.

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <string>

namespace iabn::train {

struct ProgressState {
  int64_t epoch = 0, epochs = 0;  // epoch counted from 1
  int64_t step = 0, steps = 0;    // of the epoch
  double images_per_second = 0;
  double seconds_left = 0;  // of the whole run
  double wait_share = 0;    // of the time, spent waiting for data
  double loss = 0, score = 0;
  std::string measure = "top1";  // what the score is called
};

/// "epoch 2/4 [=====>    ] 117/468 | 3500 images/s | 1:04 left | data 2 % | loss 0.4123 | top1 85.12 %"; the bar only
/// where width > 0.
std::string progress_line(const ProgressState& state, int bar_width);

/// "0:07", "12:34", "3:00:00".
std::string duration(double seconds);

class Progress {
 public:
  /// every: steps between two plain lines (a terminal is redrawn four times a second instead).
  Progress(std::FILE* out, int64_t every);
  /// Ends the line of a drawn bar, so that an error's message begins on its own.
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  /// True where the line for this step would be drawn: asking first spares the sums for the others.
  bool due(int64_t step) const;
  void draw(const ProgressState& state);
  /// Clears a drawn bar, then prints `line` to stay.
  void print(const std::string& line);

 private:
  std::FILE* out_;
  bool terminal_;
  int64_t every_;
  bool drawn_ = false;
  std::chrono::steady_clock::time_point next_draw_{};
};

}  // namespace iabn::train
