#pragma once

// What the tests of the layer share: the device under test, the table of cases, tensors in every layout.

#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/types.h>

namespace iabn::test {

/// Set by `--device cpu|cuda` on the command line of the test program; a CUDA run without a GPU fails.
torch::Device device();

struct Case {
  std::vector<int64_t> shape;
  torch::Dtype dtype;
  std::string layout;  // contiguous | channels_last | slice | unaligned
  std::string activation;
  double param;

  std::string name() const;
};

/// Every dtype x layout x activation, each on shapes at the boundaries of vectors, blocks and warps.
std::vector<Case> cases();

/// The values of `x` on the device under test, in the dtype and layout of the case (a fresh tensor, not a leaf).
torch::Tensor place(const torch::Tensor& x, torch::Dtype dtype, const std::string& layout);

/// Normal values with another mean and scale in each channel; float32 on the CPU, deterministic for a seed.
torch::Tensor random_input(const std::vector<int64_t>& shape, int64_t seed);

/// float64 on the CPU.
torch::Tensor reference(const torch::Tensor& tensor);

/// Fails where |actual - expected| > tolerance or either is NaN; reports the worst element.
void expect_close(const torch::Tensor& actual, const torch::Tensor& expected, const torch::Tensor& tolerance,
                  const std::string& what);

/// The message of the exception that f throws, without C++ stack; a test failure if it throws none.
template <class F>
std::string message_of(F&& f);

std::string without_backtrace(const std::exception& error);

template <class F>
std::string message_of(F&& f) {
  try {
    f();
  } catch (const std::exception& error) {
    return without_backtrace(error);
  }
  ADD_FAILURE() << "expected an exception";
  return "";
}

}  // namespace iabn::test
