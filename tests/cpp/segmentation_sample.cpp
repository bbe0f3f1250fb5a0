// Training samples for tests/python/test_masks.py: `segmentation_sample ROOT SPLIT CLASSES IGNORE_LABEL CROP LOWEST
// HIGHEST SEED` writes, per image of the folder, its path and a line `top left height width out_height out_width
// window_top window_left mirrored` (of Plan), then the bytes of the picture [S, S, 3] and of the labels [S, S].

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "iabn/data/segmentation_samples.h"

namespace {

using namespace iabn::data;

void write_bytes(const std::vector<uint8_t>& bytes) { std::fwrite(bytes.data(), 1, bytes.size(), stdout); }

void write_sample(const SegmentationFolder& folder, const Samples& samples, const SegmentationTransform& transform,
                  int64_t index, uint64_t seed) {
  const Random random(seed, 0, static_cast<uint64_t>(index));
  const Image whole = folder.image(index);
  const Plan plan = transform.plan(whole.height, whole.width, random);
  const Box& box = plan.wanted.box;
  std::printf("%s\n%ld %ld %ld %ld %ld %ld %ld %ld %d\n", folder.name(index).c_str(), box.top, box.left, box.height,
              box.width, plan.wanted.height, plan.wanted.width, plan.window.top, plan.window.left, plan.mirrored);
  std::vector<float> image(static_cast<size_t>(samples.shape().image_numbers()));
  std::vector<int64_t> labels(static_cast<size_t>(samples.shape().label_numbers()));
  samples.read(index, random, true, image.data(), labels.data());
  std::vector<uint8_t> bytes;
  for (const float value : image) bytes.push_back(static_cast<uint8_t>(std::lround(value * 255)));
  write_bytes(bytes);
  write_bytes({labels.begin(), labels.end()});
}

}  // namespace

int main(int count, char** arguments) try {
  if (count != 9) throw std::runtime_error("expected 8 arguments, got " + std::to_string(count - 1));
  const auto number = [&](int i) { return std::strtod(arguments[i], nullptr); };
  const auto integer = [&](int i) { return static_cast<int64_t>(number(i)); };
  const auto folder = std::make_shared<SegmentationFolder>(arguments[1], arguments[2], integer(3), integer(4));
  InputOptions input;
  input.crop_train = integer(5);
  input.mean = {0, 0, 0};
  input.std = {1, 1, 1};
  const ScaleRange scale{number(6), number(7)};
  const SegmentationTransform transform(input, scale, folder->ignore_label());
  const auto samples = segmentation_samples(folder, input, scale);
  for (int64_t i = 0; i < samples->size(); ++i) {
    write_sample(*folder, *samples, transform, i, static_cast<uint64_t>(integer(8)));
  }
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "segmentation_sample: %s\n", error.what());
  return 1;
}
