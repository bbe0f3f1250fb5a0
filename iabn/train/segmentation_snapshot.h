#pragma once

// A segmentation network from a checkpoint file.

#include <filesystem>
#include <memory>
#include <optional>

#include <c10/core/Device.h>

#include "iabn/train/config.h"

namespace iabn::io {
struct Checkpoint;
}

namespace iabn::train {

/// Of the original package's snapshot for Mapillary Vistas: wider_resnet38_a2, dilated, DeepLabV3 with a window of
/// 84 x 84, 65 classes (called "class 0" and so on) with their colours, in-place layers, pictures of 2048 pixels.
Config vistas_config();

/// What network a checkpoint's weights belong to: what `config_file` says, else the configuration inside one of our
/// snapshots, else vistas_config() where the state dict is {"body": {...}, "head": {...}, "cls": {...}}. `path` is for
/// messages. Throws ConfigError where there is none of them, or one of another task.
Config segmentation_config(const io::Checkpoint& checkpoint, const std::filesystem::path& path,
                           const std::optional<std::filesystem::path>& config_file);

}  // namespace iabn::train
