// One picture of a prediction, and whose it is.

#include <gmock/gmock.h>

#include "iabn/train/predict_files.h"

namespace iabn::train {
namespace {

// Published values of the 64-bit FNV-1a hash: "a" 0xaf63dc4c8601ec8c, "foobar" 0x85944171f73967e8.
TEST(PictureFiles, TheOwnerIsAHashOfTheName) {
  EXPECT_EQ(owner({"folder/a", {}, {}}, 1 << 20), 0x1ec8c);
  EXPECT_EQ(owner({"elsewhere/foobar", {}, {}}, 1 << 20), 0x967e8);
  EXPECT_EQ(owner({"foobar", {}, {}}, 1), 0);
}

}  // namespace
}  // namespace iabn::train
