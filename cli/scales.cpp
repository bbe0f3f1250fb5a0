#include "cli/scales.h"

#include <sstream>
#include <stdexcept>

namespace iabn::cli {

std::vector<double> scales_from_text(const std::string& text) {
  std::string list = text;
  if (list.size() >= 2 && list.front() == '[' && list.back() == ']') list = list.substr(1, list.size() - 2);
  std::vector<double> result;
  std::istringstream items(list);
  for (std::string item; std::getline(items, item, ',');) {
    size_t used = 0;
    try {
      result.push_back(std::stod(item, &used));
    } catch (const std::exception&) {
      used = 0;
    }
    if (used == 0 || item.find_first_not_of(' ', used) != std::string::npos) {
      throw std::invalid_argument("--scales must be numbers with commas between them, got \"" + text + "\"");
    }
  }
  return result;
}

}  // namespace iabn::cli
