#pragma once

// The JSON configuration of a training run: three sections, each field named as its key, each initial value the
// default. Keys marked (added) are not in the original package's schema; their defaults keep its meaning.

#include <array>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "iabn/data/options.h"
#include "iabn/models/dilation.h"

namespace iabn::train {

/// What is wrong with a configuration, in one line that names the key's path ("network.classes").
class ConfigError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

struct NetworkConfig {
  std::string arch = "resnet101";    // see models/registry.h
  std::string activation = "relu";   // relu, leaky_relu, elu, identity
  double activation_param = 0.01;    // slope of leaky_relu, alpha of elu
  bool input_3x3 = false;            // see models/network.h; without effect where mod1 is a 3x3 convolution anyway
  std::string bn_mode = "standard";  // standard, inplace, sync
  int64_t classes = 1000;
  models::Dilation dilation = int64_t{1};  // see models/registry.h; numbers and lists do not count for wider_resnet*
  double weight_gain_multiplier = 1;
  std::string weight_init = "xavier_normal";  // see models/weight_init.h
  int64_t width = 16;                         // (added) of preact_resnet*: channels of the first module
  std::string sync_exchange = "auto";         // (added) of bn_mode sync: auto, collectives; see job.h
  std::string gamma = "signed";  // (added) signed, or legacy for bn_mode inplace and sync: see nn/functional.h
};

struct ScheduleConfig {
  std::string type =
      "constant";              // constant, step, multistep, exponential, linear, (added) cosine, poly: see schedule.h
  std::string mode = "epoch";  // epoch, step: what t counts
  int64_t epochs = 10;
  double warmup_epochs = 0;  // (added) the rate rises linearly over them
  struct Params {
    int64_t step_size = 0;                                    // of step; required there
    double gamma = 0.1;                                       // of step, multistep; required in exponential
    std::vector<int64_t> milestones;                          // of multistep; required there
    double alpha = std::numeric_limits<double>::quiet_NaN();  // of linear; required there
    double beta = std::numeric_limits<double>::quiet_NaN();
    double power = 0.9;  // of poly
  } params;
};

struct OptimizerConfig {
  int64_t batch_size = 256;  // of the whole job
  std::string type = "SGD";  // SGD, Adam
  double momentum = 0.9;     // SGD
  double weight_decay = 1e-4;
  double clip = 1.0;  // largest norm of all gradients together; 0 = off
  double learning_rate = 0.1;
  double classifier_lr = -1;  // of the last layer; segmentation: of head and cls; -1 = learning_rate
  bool nesterov = false;
  int64_t accumulation_steps = 1;  // (added) parts of a process's batch that go through the network one by one
  double label_smoothing = 0;      // (added) share of the target spread evenly over all classes
  double ema_decay = 0;            // (added) of averaged weights, which evaluation then uses; 0 = off
  ScheduleConfig schedule;
};

/// (added) of the task "segmentation": network.arch with a DeepLabV3 head, see models/segmentation_network.h.
struct SegmentationConfig {
  std::vector<std::string> classes;            // names in label order; required
  std::vector<std::array<uint8_t, 3>> colors;  // RGB of each class; by default distinct ones, see default_colors()
  int64_t ignore_label = 255;                  // pixels of this mask value count nowhere
  std::vector<double> scale_train = {0.5, 2};  // range of the random scale of a training image
  double hard_pixels = 1;                      // share of a batch's pixels, those of highest loss, that is learned from
  int64_t window =
      0;  // at least 32: side of the sliding window in evaluation and prediction; 0 = whole images, but huge ones
  int64_t longest_side = 0;  // to which evaluation and prediction scale an image; 0 = as it is
  int64_t head_channels = 256;
  int64_t hidden_channels = 256;
  std::vector<int64_t> dilations = {12, 24, 36};  // of the head's 3x3 convolutions
  std::vector<int64_t> pooling_size;              // height and width, see models::DeepLabV3::forward; empty = the map
};

struct Config {
  std::string task = "classification";  // (added) classification, segmentation
  NetworkConfig network;
  OptimizerConfig optimizer;
  data::InputOptions input;           // segmentation: channels, crop_train, repeat_train, color_jitter_train,
                                      // lighting_train, mean and std count
  SegmentationConfig segmentation;    // of that task only
  int64_t seed = 0;                   // (added) of the weights, the order of the images and their augmentation
  bool channels_last = false;         // (added) memory format of the network and its input
  std::string precision = "float32";  // (added) float32, bf16, fp16: see precision.h
  bool cuda_graph = false;            // (added) the training step as one CUDA graph
  bool deterministic = false;         // (added) the same bits from run to run on the same device
};

/// Throws ConfigError for an unknown key (naming the nearest known one), a wrong type, or a value out of range.
Config parse_config(const nlohmann::json& json);

/// n colours that differ, the same each time: those of the PASCAL VOC colour map from its second on.
std::vector<std::array<uint8_t, 3>> default_colors(size_t n);

/// Throws ConfigError where the network can only be evaluated: in-place layers train no activation without an inverse.
void check_trainable(const Config& config);

/// parse_config of a file; every error text begins with the path.
Config load_config(const std::filesystem::path& path);

/// All keys with their values, defaults included: parse_config(to_json(c)) gives c.
nlohmann::json to_json(const Config& config);

}  // namespace iabn::train
