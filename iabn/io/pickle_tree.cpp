// From the nodes of the pickle reader to a tree of values.

#include <algorithm>
#include <optional>

#include "iabn/io/pickle_machine.h"

namespace iabn::io {

// A pickle that is no attack refers to a value a few times; one that doubles itself with each line would fill any
// memory.
void PickleMachine::charge(size_t values, size_t text) {
  const size_t length = reader_.position() - start_;
  tree_values_ += values;
  tree_text_ += text;
  if (tree_values_ > std::min(kMaxPickleValues, 65536 + 8 * length) || tree_text_ > (size_t{1} << 20) + 64 * length) {
    throw CheckpointError("malformed pickle: it repeats its values over and over");
  }
}

Dict PickleMachine::dict_tree(const DictNode& node, int depth) {
  Dict dict;
  dict.ordered = node.ordered;
  dict.items.reserve(node.items.size());
  for (const auto& [key, value] : node.items) {
    if (const auto* name = std::get_if<std::string>(&key)) charge(0, name->size());
    dict.items.push_back({key, tree(*value, depth)});
  }
  if (node.attributes != nullptr) dict.attributes = std::make_shared<Value>(tree(*node.attributes, depth));
  return dict;
}

Value PickleMachine::tree(Node& node, int depth) {
  if (depth > kMaxPickleDepth) {
    throw CheckpointError("malformed pickle: values are nested more than " + std::to_string(kMaxPickleDepth) +
                          " deep, or contain themselves");
  }
  charge(1, 0);
  const auto items_of = [&](const std::vector<Node*>& nodes) {
    charge(nodes.size(), 0);
    std::vector<Value> items;
    items.reserve(nodes.size());
    for (Node* item : nodes) items.push_back(tree(*item, depth + 1));
    return items;
  };
  return std::visit(
      [&]<class T>(const T& data) -> Value {
        if constexpr (std::is_same_v<T, ListNode>) {
          return List{items_of(data.items)};
        } else if constexpr (std::is_same_v<T, TupleNode>) {
          return Tuple{items_of(data.items), data.is_size};
        } else if constexpr (std::is_same_v<T, DictNode>) {
          charge(data.items.size(), 0);
          return dict_tree(data, depth + 1);
        } else if constexpr (std::is_same_v<T, ClassNode>) {
          throw CheckpointError("the class " + data.name + " itself is stored as a value, which no checkpoint needs");
        } else if constexpr (std::is_same_v<T, StorageNode>) {
          throw CheckpointError("a bare storage is stored, not a tensor: save tensors, or state_dict()");
        } else {
          if constexpr (std::is_same_v<T, std::string>) charge(0, data.size());
          if constexpr (std::is_same_v<T, Bytes> || std::is_same_v<T, BigInt>) charge(0, data.data.size());
          if constexpr (std::is_same_v<T, Tensor>) charge(2 * data.sizes.size(), 0);
          return data;
        }
      },
      node.data);
}

}  // namespace iabn::io
