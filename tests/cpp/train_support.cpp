#include "tests/cpp/train_support.h"

#include <fstream>
#include <random>
#include <sstream>
#include <vector>

#include <gtest/gtest.h>
#include <torch/torch.h>
#include <unistd.h>

#include "iabn/train/build.h"
#include "iabn/train/metrics.h"
#include "iabn/train/snapshot.h"

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

// Everything of a snapshot as tensors, in a fixed order.
std::vector<torch::Tensor> contents(const train::Config& config, const fs::path& path) {
  const auto network = train::build_network(config, torch::kCPU);
  train::TrainOptimizer optimizer(config.optimizer, *network);
  train::MetricSums metrics(torch::kCPU);
  const train::RunState state = train::load_snapshot(path, config, metrics, *network, optimizer.impl(), torch::kCPU);
  std::vector<torch::Tensor> result{torch::tensor({state.epoch, state.step, state.train_images}),
                                    torch::tensor(state.best_top1), metrics.sums()};
  for (const auto& item : network->named_buffers()) result.push_back(item.value());
  for (const auto& parameter : network->parameters()) {
    result.push_back(parameter);
    const auto& moments = *optimizer.impl().state().at(parameter.unsafeGetTensorImpl());
    if (const auto* sgd = dynamic_cast<const torch::optim::SGDParamState*>(&moments)) {
      result.push_back(sgd->momentum_buffer());
    } else if (const auto* adam = dynamic_cast<const torch::optim::AdamParamState*>(&moments)) {
      result.push_back(adam->exp_avg());
      result.push_back(adam->exp_avg_sq());
    }
  }
  return result;
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

void expect_same_snapshot(const train::Config& config, const fs::path& a, const fs::path& b) {
  const auto first = contents(config, a), second = contents(config, b);
  ASSERT_EQ(first.size(), second.size());
  for (size_t i = 0; i < first.size(); ++i) EXPECT_TRUE(torch::equal(first[i], second[i])) << "tensor " << i;
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
