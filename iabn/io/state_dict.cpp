#include <set>

#include "iabn/io/checkpoint.h"
#include "iabn/io/error.h"
#include "iabn/io/text.h"

namespace iabn::io {
namespace {

constexpr std::string_view kModule = "module.";

bool all_begin_with_module(const Dict& dict) {
  for (const Item& item : dict.items) {
    const auto* key = std::get_if<std::string>(&item.key);
    if (key == nullptr || !key->starts_with(kModule)) return false;
  }
  return !dict.items.empty();
}

void collect(const Dict& dict, const std::string& prefix, StateDict& result) {
  const bool wrapped = all_begin_with_module(dict);
  result.had_module_prefix |= wrapped;
  for (const Item& item : dict.items) {
    const auto* key = std::get_if<std::string>(&item.key);
    const std::string name = prefix + (wrapped ? key->substr(kModule.size()) : text_of(item.key));
    const Dict* child = item.value.as<Dict>();
    if (const Tensor* tensor = item.value.as<Tensor>(); tensor != nullptr && key != nullptr) {
      result.tensors.emplace_back(name, *tensor);
    } else if (child != nullptr && key != nullptr && *key != "optimizer") {
      collect(*child, name + ".", result);
    } else {
      result.left_out.push_back(name);
    }
  }
}

}  // namespace

StateDict state_dict(const Value& root) {
  const Dict* top = root.as<Dict>();
  if (top == nullptr) throw CheckpointError("holds a " + root.type_name() + ", expected a dict of tensors");
  StateDict result;
  const Dict* dict = top;
  for (const char* key : {"state_dict", "model"}) {
    const Value* inner = top->find(key);
    if (inner == nullptr || !inner->is<Dict>()) continue;
    dict = inner->as<Dict>();
    result.path = key;
    for (const Item& item : top->items) {
      if (text_of(item.key) != key) result.left_out.push_back(text_of(item.key));
    }
    break;
  }
  collect(*dict, "", result);
  if (result.tensors.empty()) {
    throw CheckpointError("holds no tensors" + (result.path.empty() ? "" : " under \"" + result.path + "\""));
  }
  std::set<std::string_view> names;
  for (const auto& [name, tensor] : result.tensors) {
    if (!names.insert(name).second) throw CheckpointError("two tensors get the key " + printable(name));
  }
  return result;
}

}  // namespace iabn::io
