// Writes the event files that tests/python/test_event_file.py reads with TensorBoard: event_file_sample FOLDER PNG.

#include <cstdio>
#include <exception>
#include <fstream>
#include <iterator>
#include <vector>

#include "iabn/io/tensorboard.h"

int main(int argc, char** argv) try {
  if (argc != 3) {
    std::fprintf(stderr, "event_file_sample: expected FOLDER PNG\n");
    return 2;
  }
  std::ifstream file(argv[2], std::ios::binary);
  const std::vector<char> content{std::istreambuf_iterator<char>(file), {}};
  const std::vector<uint8_t> png(content.begin(), content.end());
  std::vector<float> weights;
  for (int i = 0; i < 1000; ++i) weights.push_back(static_cast<float>(i - 300) / 100.0f);

  iabn::io::EventWriter first(argv[1]);
  for (int step = 0; step < 6; ++step) first.add_scalar("train/loss", step, 1.0 / (step + 1), 1000.0 + step);
  first.add_histogram("weights", 2, weights, 1002.0);
  first.add_histogram("counts", 2, iabn::io::Histogram{0, 3, 4, 6, 14, {1, 2, 4}, {1, 1, 2}}, 1002.5);
  first.add_image("picture", 3, png, 1003.0);
  // The resumed run, from step 4 on.
  iabn::io::EventWriter second(argv[1]);
  second.start_at(4, 2000.0);
  second.add_scalar("train/loss", 4, 10.0, 2001.0);
  second.add_scalar("val/top1", int64_t{1} << 40, 99.5, 2002.0);
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "event_file_sample: %s\n", error.what());
  return 1;
}
