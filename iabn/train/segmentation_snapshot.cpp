#include "iabn/train/segmentation_snapshot.h"

#include <array>
#include <string>

#include "iabn/io/checkpoint.h"
#include "iabn/train/parse_json.h"

namespace iabn::train {
namespace {

// Red, green, blue of each class.
constexpr std::array<uint32_t, 65> kVistasColors = {
    0xa52a2a, 0x00c000, 0xc4c4c4, 0xbe9999, 0xb4a5b4, 0x5a7896, 0x66669c, 0x8040ff, 0x8c8cc8, 0xaaaaaa, 0xfaaaa0,
    0x606060, 0xe6968c, 0x804080, 0x6e6e6e, 0xf423e8, 0x966464, 0x464646, 0x96785a, 0xdc143c, 0xff0000, 0xff0064,
    0xff00c8, 0xc88080, 0xffffff, 0x40aa40, 0xe6a032, 0x4682b4, 0xbeffff, 0x98fb98, 0x6b8e23, 0x00aa1e, 0xffff80,
    0xfa001e, 0x648cb4, 0xdcdcdc, 0xdc8080, 0xde2828, 0x64aa1e, 0x282828, 0x212121, 0x6480a0, 0x8e0000, 0x466496,
    0xd2aa64, 0x999999, 0x808080, 0x000050, 0xfaaa1e, 0xc0c0c0, 0xdcdc00, 0x8c8c14, 0x770b20, 0x9600ff, 0x003c64,
    0x00008e, 0x00005a, 0x0000e6, 0x005064, 0x804040, 0x00006e, 0x000046, 0x0000c0, 0x202020, 0x780a0a};

// {"state_dict": {"body": {...}, "head": {...}, "cls": {...}}}; weights of ours are one dict of tensors.
bool is_vistas(const io::Value& root) {
  const io::Value* weights = root.find("state_dict");
  if (weights == nullptr) return false;
  for (const char* part : {"body", "head", "cls"}) {
    const io::Value* dict = weights->find(part);
    if (dict == nullptr || !dict->is<io::Dict>()) return false;
  }
  return true;
}

Config config_inside(const std::string& json, const std::filesystem::path& path) {
  try {
    return parse_config(parse_json(json));
  } catch (const std::exception& error) {
    throw ConfigError(path.string() + ": the configuration inside cannot be read: " + error.what() +
                      "; give one with --config");
  }
}

}  // namespace

Config vistas_config() {
  Config config;
  config.task = "segmentation";
  config.network.arch = "wider_resnet38_a2";
  config.network.activation = "leaky_relu";
  config.network.activation_param = 0.01;
  config.network.bn_mode = "inplace";
  config.network.dilation = true;
  config.network.classes = static_cast<int64_t>(kVistasColors.size());
  config.input.mean = {0.41738699, 0.45732192, 0.46886091};
  config.input.std = {0.25685097, 0.26509955, 0.29067996};
  SegmentationConfig& segmentation = config.segmentation;
  for (const uint32_t color : kVistasColors) {
    segmentation.classes.push_back("class " + std::to_string(segmentation.classes.size()));
    segmentation.colors.push_back({static_cast<uint8_t>(color >> 16), static_cast<uint8_t>(color >> 8 & 0xff),
                                   static_cast<uint8_t>(color & 0xff)});
  }
  segmentation.longest_side = 2048;
  segmentation.pooling_size = {84, 84};
  return config;
}

Config segmentation_config(const io::Checkpoint& checkpoint, const std::filesystem::path& path,
                           const std::optional<std::filesystem::path>& config_file) {
  Config config;
  if (config_file) {
    config = load_config(*config_file);
  } else if (const auto info = io::snapshot_info(checkpoint); info.config) {
    config = config_inside(*info.config, path);
  } else if (is_vistas(checkpoint.root)) {
    return vistas_config();
  } else {
    throw ConfigError(path.string() +
                      ": holds no configuration, and is not the original's snapshot for Mapillary Vistas; give the "
                      "network's configuration with --config");
  }
  if (config.task != "segmentation") {
    throw ConfigError((config_file ? *config_file : path).string() + ": task: must be \"segmentation\", got \"" +
                      config.task + "\"");
  }
  return config;
}

}  // namespace iabn::train
