#include "iabn/models/dilation.h"

namespace iabn::models {
namespace {

template <class List, class Write>
std::string bracketed(const List& list, Write&& write) {
  std::string text;
  for (const auto& entry : list) text += (text.empty() ? "" : ", ") + write(entry);
  return "[" + text + "]";
}

std::string to_string(const ModuleDilation& dilation) {
  if (const auto* number = std::get_if<int64_t>(&dilation)) return std::to_string(*number);
  return bracketed(std::get<std::vector<int64_t>>(dilation), [](int64_t number) { return std::to_string(number); });
}

}  // namespace

int64_t block_dilation(const Dilation& dilation, size_t module, size_t block) {
  if (const auto* number = std::get_if<int64_t>(&dilation)) return *number;
  const auto* modules = std::get_if<std::vector<ModuleDilation>>(&dilation);
  if (modules == nullptr) return 1;
  const ModuleDilation& entry = modules->at(module);
  const auto* number = std::get_if<int64_t>(&entry);
  return number != nullptr ? *number : std::get<std::vector<int64_t>>(entry).at(block);
}

bool switched_on(const Dilation& dilation) {
  if (const auto* on = std::get_if<bool>(&dilation)) return *on;
  const auto* modules = std::get_if<std::vector<ModuleDilation>>(&dilation);
  return modules != nullptr && !modules->empty();
}

std::string to_string(const Dilation& dilation) {
  if (const auto* number = std::get_if<int64_t>(&dilation)) return std::to_string(*number);
  if (const auto* on = std::get_if<bool>(&dilation)) return *on ? "true" : "false";
  return bracketed(std::get<std::vector<ModuleDilation>>(dilation),
                   [](const ModuleDilation& entry) { return to_string(entry); });
}

}  // namespace iabn::models
