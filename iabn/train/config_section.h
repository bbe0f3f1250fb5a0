#pragma once

// One object of a configuration while it is read: every key is asked for once, by name and type; what nobody asked for
// is an unknown key. So the list of known keys is the code that reads them.

#include <algorithm>
#include <cstdint>
#include <string>
#include <type_traits>
#include <vector>

#include <nlohmann/json.hpp>

#include "iabn/models/nearest.h"
#include "iabn/train/config.h"

namespace iabn::train {

/// The key that an unknown one of `section` probably means: of those `here` one of its initials ("lr") or the nearest,
/// else of another section, with its path ("optimizer.learning_rate"); "" for none.
std::string meant_key(const std::string& name, const std::vector<std::string>& here, const std::string& section);

class ConfigSection {
 public:
  /// path: "network", or "" for the whole file.
  ConfigSection(const nlohmann::json& json, std::string path) : json_(json), path_(std::move(path)) {
    if (!json_.is_object()) fail("", "must be an object {...}, got " + describe(json_));
  }

  bool has(const std::string& key) {
    if (std::find(known_.begin(), known_.end(), key) == known_.end()) known_.push_back(key);
    return json_.contains(key);
  }

  /// Sets `target` where the key is there; throws where its type is another.
  template <class T>
  void read(const std::string& key, T& target) {
    if (has(key)) target = convert<T>(key, json_.at(key));
  }

  /// read(), and the value must be one of `choices`.
  void read_choice(const std::string& key, std::string& target, const std::vector<std::string>& choices) {
    read(key, target);
    check_choice(key, target, choices);
  }

  void check_choice(const std::string& key, const std::string& value, const std::vector<std::string>& choices) const {
    for (const std::string& choice : choices) {
      if (value == choice) return;
    }
    fail(key, "must be one of " + join(choices) + ", got \"" + value + "\"" + did_you_mean(value, choices));
  }

  /// The object under `key`, empty where it is missing.
  ConfigSection section(const std::string& key) {
    static const nlohmann::json empty = nlohmann::json::object();
    return ConfigSection(has(key) ? json_.at(key) : empty, full(key));
  }

  /// Call after the last read: throws for the first key that was never asked for.
  void check_unknown() const {
    for (const auto& item : json_.items()) {
      if (std::find(known_.begin(), known_.end(), item.key()) != known_.end()) continue;
      const std::string meant = meant_key(item.key(), known_, path_);
      fail(item.key(), "unknown key" + (meant.empty() ? "" : " (did you mean \"" + meant + "\"?)") +
                           "; known here: " + join(known_));
    }
  }

  /// Throws `key.path: text`.
  [[noreturn]] void fail(const std::string& key, const std::string& text) const {
    const std::string where = key.empty() && path_.empty() ? "configuration" : full(key);
    throw ConfigError(where + ": " + text);
  }

 private:
  std::string full(const std::string& key) const {
    if (key.empty()) return path_;
    return path_.empty() ? key : path_ + "." + key;
  }

  static std::string describe(const nlohmann::json& value) {
    std::string text = value.dump();
    if (text.size() > 40) text = text.substr(0, 40) + "...";
    return text + " (" + (value.is_number_integer() ? "integer" : value.type_name()) + ")";
  }

  template <class T>
  T convert(const std::string& key, const nlohmann::json& value) const {
    if constexpr (std::is_same_v<T, bool>) {
      if (!value.is_boolean()) fail(key, "must be true or false, got " + describe(value));
      return value.get<bool>();
    } else if constexpr (std::is_integral_v<T>) {
      if (!value.is_number_integer()) fail(key, "must be an integer, got " + describe(value));
      if (value.is_number_unsigned() && value.get<uint64_t>() > uint64_t{INT64_MAX}) {
        fail(key, "is too large, got " + describe(value));
      }
      return value.get<T>();
    } else if constexpr (std::is_floating_point_v<T>) {
      if (!value.is_number()) fail(key, "must be a number, got " + describe(value));
      return value.get<T>();
    } else if constexpr (std::is_same_v<T, std::string>) {
      if (!value.is_string()) fail(key, "must be a string, got " + describe(value));
      return value.get<std::string>();
    } else if constexpr (std::is_same_v<T, models::Dilation>) {
      if (value.is_boolean()) return value.get<bool>();
      if (value.is_array()) return convert<std::vector<models::ModuleDilation>>(key, value);
      return convert<int64_t>(key, value);
    } else if constexpr (std::is_same_v<T, models::ModuleDilation>) {
      if (value.is_array()) return convert<std::vector<int64_t>>(key, value);
      return convert<int64_t>(key, value);
    } else {  // std::vector
      if (!value.is_array()) fail(key, "must be a list [...], got " + describe(value));
      T list;
      for (size_t i = 0; i < value.size(); ++i) {
        list.push_back(convert<typename T::value_type>(key + "[" + std::to_string(i) + "]", value[i]));
      }
      return list;
    }
  }

  const nlohmann::json& json_;
  std::string path_;
  std::vector<std::string> known_;
};

}  // namespace iabn::train
