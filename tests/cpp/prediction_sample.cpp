// A Predictor with a network that tests/python/test_prediction.py can recompute. Arguments: PICTURE FUSION FLIP
// LONGEST_SIDE WINDOW STRIDE SCALE... To stdout go height and width as text, a line break, the labels (uint8) and the
// confidence (float32); to stderr the process's peak memory in KiB.

#include <cmath>
#include <cstdio>
#include <exception>
#include <fstream>
#include <string>

#include <torch/torch.h>

#include "iabn/data/decode.h"
#include "iabn/data/file.h"
#include "iabn/models/network.h"
#include "iabn/segmentation/predictor.h"

namespace {

using namespace iabn;

constexpr int64_t kClasses = 5;

// Every stride-th pixel from the first on, which is not the same mirrored; class c has the logit
// sum of 4 sin(1 + 3 c + k) x[k] over the channels k, + cos(c).
class Sampler : public models::Network {
 public:
  explicit Sampler(int64_t stride) : stride_(stride) {
    const torch::Tensor c = torch::arange(kClasses, torch::kDouble), k = torch::arange(3, torch::kDouble);
    weight_ = (4 * (1 + 3 * c.unsqueeze(1) + k).sin()).to(torch::kFloat).view({kClasses, 3, 1, 1});
    bias_ = c.cos().to(torch::kFloat);
    eval();
  }
  torch::Tensor forward(torch::Tensor x) override {
    const torch::Tensor sample = x.slice(2, 0, std::nullopt, stride_).slice(3, 0, std::nullopt, stride_);
    return torch::conv2d(sample.contiguous(), weight_, bias_);
  }

 private:
  int64_t stride_;
  torch::Tensor weight_, bias_;
};

void report_peak() {
  std::ifstream status("/proc/self/status");
  for (std::string word; status >> word;) {
    if (word == "VmHWM:" && status >> word) std::fprintf(stderr, "%s\n", word.c_str());
  }
}

void run(int argc, char** argv) {
  const std::string picture = argv[1];
  segmentation::PredictorOptions options;
  options.fusion = segmentation::fusion_from_name(argv[2]);
  options.flip = std::stoi(argv[3]) != 0;
  options.longest_side = std::stoll(argv[4]);
  options.window = std::stoll(argv[5]);
  Sampler network(std::stoll(argv[6]));
  options.scales.clear();
  for (int i = 7; i < argc; ++i) options.scales.push_back(std::stod(argv[i]));
  const segmentation::Predictor predictor(network, options, torch::kCPU);
  const auto [labels, confidence] = predictor(data::decode_image(data::read_file(picture).span(), 3, picture));
  std::printf("%ld %ld\n", labels.size(0), labels.size(1));
  std::fwrite(labels.contiguous().const_data_ptr(), 1, static_cast<size_t>(labels.numel()), stdout);
  std::fwrite(confidence.contiguous().const_data_ptr(), 4, static_cast<size_t>(confidence.numel()), stdout);
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc < 7) throw std::invalid_argument("arguments are missing");
  run(argc, argv);
  report_peak();
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "prediction_sample: %s\n", error.what());
  return 1;
}
