// Which key of a configuration a mistyped one stands for.

#include <algorithm>

#include "iabn/train/config_section.h"

namespace iabn::train {
namespace {

std::string last_key(const std::string& path) { return path.substr(path.rfind('.') + 1); }

// Of all sections: "optimizer.schedule.epochs".
std::vector<std::string> paths_of_keys() {
  Config config;
  config.task = "segmentation";
  config.optimizer.schedule.type = "step";
  std::vector<std::string> paths;
  const nlohmann::json json = to_json(config);
  for (const char* path :
       {"network", "optimizer", "optimizer.schedule", "optimizer.schedule.params", "input", "segmentation"}) {
    std::string pointer = std::string("/") + path;
    std::replace(pointer.begin(), pointer.end(), '.', '/');
    for (const auto& item : json.at(nlohmann::json::json_pointer(pointer)).items()) {
      paths.push_back(std::string(path) + "." + item.key());
    }
  }
  return paths;
}

// "lr" for "learning_rate", which no typing error would give.
std::string of_initials(const std::string& name, const std::vector<std::string>& keys) {
  for (const std::string& key : keys) {
    std::string initials(1, key.front());
    for (size_t i = 1; i < key.size(); ++i) {
      if (key[i - 1] == '_') initials += key[i];
    }
    if (initials.size() > 1 && name == initials) return key;
  }
  return "";
}

}  // namespace

std::string meant_key(const std::string& name, const std::vector<std::string>& here, const std::string& section) {
  if (std::string key = of_initials(name, here); !key.empty()) return key;
  static const std::vector<std::string> paths = paths_of_keys();
  std::vector<std::string> keys;
  for (const std::string& path : paths) keys.push_back(last_key(path));
  const auto elsewhere = [&](const std::string& key) {
    std::string found;
    for (const std::string& path : paths) {
      if (key.empty() || last_key(path) != key) continue;
      if (path.starts_with(section)) return path;
      if (found.empty()) found = path;
    }
    return found;
  };
  for (const std::string& found : {elsewhere(name), nearest(name, here), elsewhere(of_initials(name, keys))}) {
    if (!found.empty()) return found;
  }
  return elsewhere(nearest(name, keys));
}

}  // namespace iabn::train
