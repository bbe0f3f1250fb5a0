#pragma once

// What the tests of training and of the program share: a small data set, a small configuration, comparing two runs.

#include <filesystem>
#include <string>

#include "iabn/train/config.h"

namespace iabn::test {

/// Removed with everything in it at the end.
class TemporaryFolder {
 public:
  explicit TemporaryFolder(const std::string& name);
  ~TemporaryFolder();
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

/// MNIST-style idx files: 8x8 grey images of 3 classes that differ in where they are bright.
void write_idx_dataset(const std::filesystem::path& folder, int train_images, int val_images);

/// preact_resnet8 of width 4 for write_idx_dataset, batches of 16.
train::Config small_config(const std::string& bn_mode);

/// Fails unless everything but the seconds is the same, bit for bit.
void expect_same_snapshot(const std::filesystem::path& a, const std::filesystem::path& b);

/// log.csv without its last column, which no two runs share.
std::string log_without_seconds(const std::filesystem::path& log_dir);

std::string read_file(const std::filesystem::path& path);

}  // namespace iabn::test
