// The line that a person watches: who is the bottleneck, and how long it will take.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "iabn/train/progress.h"

namespace iabn::train {
namespace {

using testing::HasSubstr;

ProgressState state() {
  ProgressState result;
  result.epoch = 2;
  result.epochs = 4;
  result.step = 117;
  result.steps = 468;
  result.images_per_second = 3500.4;
  result.seconds_left = 63.2;
  result.loss = 0.41234;
  result.score = 85.1249;
  return result;
}

TEST(Progress, TheLineShowsTheShareOfTimeSpentWaitingForData) {
  ProgressState waiting = state();
  for (const auto& [share, text] : {std::pair{0.0, "| data 0 % |"}, {0.021, "| data 2 % |"}, {1.0, "| data 100 % |"}}) {
    waiting.wait_share = share;
    EXPECT_THAT(progress_line(waiting, 0), HasSubstr(text));
  }
}

TEST(Progress, TheLineIsAsItsContractSays) {
  ProgressState shown = state();
  shown.wait_share = 0.02;
  EXPECT_EQ(progress_line(shown, 0),
            "epoch 2/4 117/468 | 3500 images/s | 1:04 left | data 2 % | loss 0.4123 | top1 85.12 %");
  EXPECT_THAT(progress_line(shown, 8), HasSubstr("epoch 2/4 [==>     ] 117/468 | "));
  shown.step = shown.steps;
  EXPECT_THAT(progress_line(shown, 8), HasSubstr("[========]"));
}

TEST(Progress, DurationsRoundUp) {
  EXPECT_EQ(duration(0), "0:00");
  EXPECT_EQ(duration(6.2), "0:07");
  EXPECT_EQ(duration(754), "12:34");
  EXPECT_EQ(duration(10800), "3:00:00");
  EXPECT_EQ(duration(-5), "0:00");
}

}  // namespace
}  // namespace iabn::train
