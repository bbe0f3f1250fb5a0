#include "iabn/train/class_names.h"

#include <algorithm>

#include <nlohmann/json.hpp>

namespace iabn::train {
namespace {

using nlohmann::json;

std::string name_at(const json& names, size_t label) {
  return label < names.size() ? names[label].dump() : std::string("nothing");
}

}  // namespace

std::string class_names_text(const std::vector<std::string>& names) {
  return json(names).dump(-1, ' ', /*ensure_ascii=*/false, json::error_handler_t::replace);
}

std::vector<std::string> class_differences(const std::string& there, const std::string& here) {
  if (there == here) return {};
  const json a = json::parse(there, nullptr, /*allow_exceptions=*/false);
  const json b = json::parse(here, nullptr, /*allow_exceptions=*/false);
  if (!a.is_array() || !b.is_array()) return {"the names there cannot be read"};
  std::vector<std::string> result;
  for (size_t label = 0; label < std::max(a.size(), b.size()); ++label) {
    if (name_at(a, label) == name_at(b, label)) continue;
    result.push_back("label " + std::to_string(label) + " is " + name_at(a, label) + " there, " + name_at(b, label) +
                     " here");
  }
  return result;
}

}  // namespace iabn::train
