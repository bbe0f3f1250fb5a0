#include "iabn/io/visit.h"

namespace iabn::io {
namespace {

// One path that grows and shrinks on the way: building it anew for each value would cost a hostile file's reader the
// square of its length.
template <class V, class Visit>
void walk(V& value, std::string& path, const Visit& visit) {
  visit(path, value);
  const size_t length = path.size();
  const auto descend = [&](const std::string& key, auto& child) {
    if (length > 0) path += '.';
    path += key;
    walk(child, path, visit);
    path.resize(length);
  };
  const auto descend_all = [&](auto& items) {
    for (size_t i = 0; i < items.size(); ++i) descend(std::to_string(i), items[i]);
  };
  if (auto* dict = value.template as<Dict>()) {
    for (auto& item : dict->items) descend(text_of(item.key), item.value);
  } else if (auto* list = value.template as<List>()) {
    descend_all(list->items);
  } else if (auto* tuple = value.template as<Tuple>()) {
    descend_all(tuple->items);
  }
}

}  // namespace

void for_each_tensor(const Value& root, const std::function<void(const std::string&, const Tensor&)>& visit) {
  std::string path;
  walk(root, path, [&](const std::string& name, const Value& value) {
    if (const Tensor* tensor = value.as<Tensor>()) visit(name, *tensor);
  });
}

void for_each_dict(Value& root, const std::function<void(const std::string&, Dict&)>& visit) {
  std::string path;
  walk(root, path, [&](const std::string& name, Value& value) {
    if (Dict* dict = value.as<Dict>()) visit(name, *dict);
  });
}

}  // namespace iabn::io
