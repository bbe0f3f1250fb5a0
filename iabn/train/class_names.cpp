#include "iabn/train/class_names.h"

#include <algorithm>
#include <exception>

#include <nlohmann/json.hpp>

#include "iabn/train/parse_json.h"

namespace iabn::train {
namespace {

using nlohmann::json;

using Names = std::vector<std::string>;

std::string name_at(const Names& names, size_t label) {
  return label < names.size() ? json(names[label]).dump() : std::string("nothing");
}

}  // namespace

std::string class_names_text(const std::vector<std::string>& names) {
  return json(names).dump(-1, ' ', /*ensure_ascii=*/false, json::error_handler_t::replace);
}

std::vector<std::string> class_differences(const std::string& there, const std::string& here) {
  if (there == here) return {};
  Names a, b;
  try {
    parse_json(there).get_to(a);
    parse_json(here).get_to(b);
  } catch (const std::exception&) {  // of the parser, of a type, or of the depth
    return {"the names there cannot be read: expected a list of texts"};
  }
  std::vector<std::string> result;
  for (size_t label = 0; label < std::max(a.size(), b.size()); ++label) {
    if (name_at(a, label) == name_at(b, label)) continue;
    result.push_back("label " + std::to_string(label) + " is " + name_at(a, label) + " there, " + name_at(b, label) +
                     " here");
  }
  return result;
}

std::string other_classes(const std::string& differences, const std::string& option) {
  return "was trained with other classes: " + differences +
         "; labels are the class folders in order of name, so give these their names back, or add " + option +
         " if the labels mean the same";
}

}  // namespace iabn::train
