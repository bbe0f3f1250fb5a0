#include "tests/cpp/train_support.h"

#include <fstream>
#include <random>
#include <sstream>

#include <gtest/gtest.h>
#include <unistd.h>

#include "iabn/io/checkpoint.h"
#include "iabn/io/pytorch.h"

namespace iabn::test {
namespace {

namespace fs = std::filesystem;
constexpr int kSide = 8, kClasses = 3;

void put_int(std::ofstream& file, uint32_t value) {
  for (int shift = 24; shift >= 0; shift -= 8) file.put(static_cast<char>(value >> shift & 0xff));
}

void write_split(const fs::path& folder, const std::string& prefix, int count, unsigned seed) {
  std::ofstream images(folder / (prefix + "-images-idx3-ubyte"), std::ios::binary);
  std::ofstream labels(folder / (prefix + "-labels-idx1-ubyte"), std::ios::binary);
  put_int(images, 0x803);
  for (const int size : {count, kSide, kSide}) put_int(images, static_cast<uint32_t>(size));
  put_int(labels, 0x801);
  put_int(labels, static_cast<uint32_t>(count));
  std::mt19937 random(seed);
  for (int i = 0; i < count; ++i) {
    const int label = i % kClasses;
    labels.put(static_cast<char>(label));
    for (int pixel = 0; pixel < kSide * kSide; ++pixel) {
      const bool bright = pixel / kSide * kClasses / kSide == label;
      images.put(static_cast<char>((bright ? 120 : 60) + random() % 80));
    }
  }
}

// Everything of a snapshot but the time that it took.
std::string contents(const fs::path& path) {
  io::Value root = io::load_checkpoint(path).root;
  io::Value* own = root.find("iabn");
  EXPECT_NE(own, nullptr) << path;
  if (own != nullptr) own->as<io::Dict>()->set("epoch_seconds", 0.0);
  return io::pytorch_bytes(root);
}

}  // namespace

TemporaryFolder::TemporaryFolder(const std::string& name)
    : path_(fs::path(testing::TempDir()) / ("iabn_" + name + "_" + std::to_string(::getpid()))) {
  fs::remove_all(path_);
  fs::create_directories(path_);
}

TemporaryFolder::~TemporaryFolder() {
  std::error_code ignored;
  fs::remove_all(path_, ignored);
}

void write_idx_dataset(const fs::path& folder, int train_images, int val_images) {
  fs::create_directories(folder);
  write_split(folder, "train", train_images, 1);
  write_split(folder, "t10k", val_images, 2);
}

train::Config small_config(const std::string& bn_mode) {
  train::Config config;
  config.network.arch = "preact_resnet8";
  config.network.width = 4;
  config.network.classes = kClasses;
  config.network.bn_mode = bn_mode;
  config.network.activation = "leaky_relu";
  config.optimizer.batch_size = 16;
  config.input.channels = 1;
  config.input.augmentation = data::Augmentation::flip;
  config.input.crop_train = config.input.crop_val = kSide;
  config.input.scale_val = -1;
  config.input.mean = {0.4};
  config.input.std = {0.2};
  return config;
}

void expect_same_snapshot(const fs::path& a, const fs::path& b) {
  EXPECT_TRUE(contents(a) == contents(b)) << a << " and " << b << " differ";
}

std::string log_without_seconds(const fs::path& log_dir) {
  std::istringstream lines(read_file(log_dir / "log.csv"));
  std::string result;
  for (std::string line; std::getline(lines, line);) result += line.substr(0, line.rfind(',')) + "\n";
  return result;
}

std::string read_file(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

}  // namespace iabn::test
