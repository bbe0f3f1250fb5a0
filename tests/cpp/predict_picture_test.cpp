// What a prediction asks of a picture before it is read: whose it is, how large, and whether there is memory for it.

#include <gmock/gmock.h>

#include "iabn/data/decode.h"
#include "iabn/data/error.h"
#include "iabn/segmentation/write_png.h"
#include "iabn/train/memory_budget.h"
#include "iabn/train/predict_files.h"

namespace iabn::train {
namespace {

// Published values of the 64-bit FNV-1a hash: "a" 0xaf63dc4c8601ec8c, "foobar" 0x85944171f73967e8.
TEST(PictureFiles, TheOwnerIsAHashOfTheName) {
  EXPECT_EQ(owner({"folder/a", {}, {}}, 1 << 20), 0x1ec8c);
  EXPECT_EQ(owner({"elsewhere/foobar", {}, {}}, 1 << 20), 0x967e8);
  EXPECT_EQ(owner({"foobar", {}, {}}, 1), 0);
}

TEST(ImageSize, IsThatOfTheHeader) {
  const std::string png = segmentation::png_bytes(data::make_image(2, 3, 1));
  const std::span bytes(reinterpret_cast<const uint8_t*>(png.data()), png.size());
  const auto size = data::image_size(bytes, "name");
  EXPECT_EQ(size.height, 2);
  EXPECT_EQ(size.width, 3);
  EXPECT_THROW(data::image_size(bytes.first(20), "name"), data::DecodeError);
  EXPECT_THROW(data::image_size({}, "name"), data::DecodeError);
}

TEST(MemoryBudget, SharesFitUnlessForced) {
  MemoryBudget budget(10);
  auto six = budget.take(6, false);
  EXPECT_TRUE(six);
  EXPECT_FALSE(budget.take(5, false));
  {
    const auto forced = budget.take(50, true);
    EXPECT_TRUE(forced);
    EXPECT_FALSE(budget.take(1, false));
  }
  EXPECT_TRUE(budget.take(4, false));
  auto moved = std::move(six);
  EXPECT_FALSE(budget.take(5, false));
  moved = {};
  EXPECT_TRUE(budget.take(10, false));
}

}  // namespace
}  // namespace iabn::train
