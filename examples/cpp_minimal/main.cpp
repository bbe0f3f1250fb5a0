#include <torch/torch.h>

#include <iostream>

#include "iabn/nn/abn.h"

// Convolution, BatchNorm and leaky ReLU; the last two are one layer that overwrites the convolution's output.
void add_block(torch::nn::Sequential& net, int64_t in, int64_t out) {
  net->push_back(torch::nn::Conv2d(torch::nn::Conv2dOptions(in, out, 3).padding(1).bias(false)));
  net->push_back(iabn::nn::InPlaceABN(iabn::nn::ABNOptions(out).activation("leaky_relu")));
}

int main() {
  torch::manual_seed(0);
  torch::nn::Sequential net;
  add_block(net, 3, 64);
  add_block(net, 64, 64);
  net->push_back(torch::nn::AdaptiveAvgPool2d(1));
  net->push_back(torch::nn::Flatten());
  net->push_back(torch::nn::Linear(64, 10));

  torch::optim::SGD optimizer(net->parameters(), torch::optim::SGDOptions(0.1).momentum(0.9));
  const auto images = torch::randn({8, 3, 32, 32});
  const auto labels = torch::randint(10, {8}, torch::kLong);
  for (int step = 0; step < 3; ++step) {
    optimizer.zero_grad();
    auto loss = torch::nn::functional::cross_entropy(net->forward(images), labels);
    loss.backward();
    optimizer.step();
    std::cout << "step " << step << ": loss " << loss.item<float>() << "\n";
  }
}
