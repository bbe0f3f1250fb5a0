// Decodes and resizes for tests/python/test_images.py. Each line of stdin is `channels top left height width out_height
// out_width scaled path`; a height of 0 means the whole image. To stdout go, per line, height and width as text, a line
// break, and the bytes.

#include <cstdio>
#include <exception>
#include <iostream>
#include <sstream>
#include <string>

#include "iabn/data/decode.h"
#include "iabn/data/file.h"
#include "iabn/data/resize.h"

namespace {

using namespace iabn::data;

void process(const std::string& line) {
  std::istringstream fields(line);
  int64_t channels = 0, out_height = 0, out_width = 0;
  Box box;
  bool scaled = false;
  std::string path;
  fields >> channels >> box.top >> box.left >> box.height >> box.width >> out_height >> out_width >> scaled;
  std::getline(fields >> std::ws, path);
  const FileBytes file = read_file(path);
  Part part = decode_part(file.span(), channels, path, [&](int64_t height, int64_t width) {
    if (box.height == 0) box = {0, 0, height, width};
    if (out_height == 0) out_height = box.height, out_width = box.width;
    return Wanted{box, out_height, out_width, scaled};
  });
  if (part.box.height != out_height || part.box.width != out_width || part.image.height != out_height ||
      part.image.width != out_width) {
    part.image = resize(part.image, part.box, out_height, out_width);
  }
  std::printf("%ld %ld\n", part.image.height, part.image.width);
  std::fwrite(part.image.pixels, 1, static_cast<size_t>(part.image.bytes()), stdout);
}

}  // namespace

int main() try {
  for (std::string line; std::getline(std::cin, line);) process(line);
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "image_sample: %s\n", error.what());
  return 1;
}
