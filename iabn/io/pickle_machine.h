#pragma once

// The state of the pickle reader. Internal to pickle_*.cpp.
//
// Pickles build values bottom-up and change them after they were stored in others, so values are nodes that an arena
// owns and that refer to each other by pointer. A pickle can make them refer in circles, or one to another over and
// over; tree() therefore bounds depth and count. Maps are ordered ones, here and wherever names come from a file: keys
// that collide in a hash table are easily found.

#include <deque>
#include <map>
#include <string>
#include <variant>
#include <vector>

#include "iabn/io/pickle.h"

namespace iabn::io {

/// What a GLOBAL may name.
enum class Class : uint8_t {
  kOrderedDict,
  kRebuildTensor,
  kRebuildTensorV2,
  kRebuildTensorV3,
  kRebuildParameter,
  kStorage,
  kSize,
  kDevice,
  kEncode,
};
struct ClassNode {
  Class kind;
  std::string name;            // for messages
  std::optional<DType> dtype;  // of a storage class; nothing for UntypedStorage
};

struct Node;
struct ListNode {
  std::vector<Node*> items;
};
struct TupleNode {
  std::vector<Node*> items;
  bool is_size = false;
};
struct DictNode {
  std::vector<std::pair<Key, Node*>> items;
  std::map<Key, size_t> index;
  bool ordered = false;
  Node* attributes = nullptr;
};
/// A storage, or with the old format's view tuple a part of one.
struct StorageNode {
  size_t index;  // into Unpickled::storages
  std::optional<DType> dtype;
  size_t first_byte, bytes;
};

struct Node {
  std::variant<None, bool, int64_t, double, std::string, Bytes, BigInt, DType, Device, ListNode, TupleNode, DictNode,
               ClassNode, StorageNode, Tensor>
      data;
  template <class T>
  T* as() {
    return std::get_if<T>(&data);
  }
};

class PickleMachine {
 public:
  explicit PickleMachine(ByteReader& reader) : reader_(reader), start_(reader.position()) {}
  Unpickled run();

 private:
  // pickle_reader.cpp: opcodes.
  bool step();  // false after STOP
  bool push_scalar(uint8_t opcode);
  bool push_string(uint8_t opcode);
  bool push_container(uint8_t opcode);
  bool use_memo(uint8_t opcode);
  bool call(uint8_t opcode);
  void push(Node* node) { stack_.push_back(node); }
  template <class T>
  Node* make(T data) {
    if (arena_.size() >= kMaxPickleValues) throw CheckpointError("the pickle holds more values than any checkpoint");
    return &arena_.emplace_back(Node{std::move(data)});
  }
  Node* pop();
  Node* top();
  std::vector<Node*> pop_to_mark();
  void push_integer(std::string_view little_endian);
  void append(Node* list, const std::vector<Node*>& items);
  void set_items(Node* dict, const std::vector<Node*>& pairs);
  [[noreturn]] void fail(const std::string& text) const;

  // pickle_objects.cpp: what classes and persistent ids mean.
  Node* find_class(std::string_view module, std::string_view name);
  Node* reduce(Node* function, Node* arguments);
  void build(Node* object, Node* state);
  Node* load_storage(Node* id);
  Node* rebuild_tensor(Class kind, const std::vector<Node*>& arguments);
  Node* rebuild_parameter(const std::vector<Node*>& arguments);
  Node* make_ordered_dict(const std::vector<Node*>& arguments);
  Node* make_device(const std::vector<Node*>& arguments);
  Node* encode(const std::vector<Node*>& arguments);
  int64_t integer(Node* node, const char* what) const;
  const std::string& text(Node* node, const char* what) const;
  std::vector<int64_t> integers(Node* node, const char* what) const;

  // pickle_tree.cpp
  Value tree(Node& node, int depth);
  Dict dict_tree(const DictNode& node, int depth);
  void charge(size_t values, size_t text);

  ByteReader& reader_;
  size_t start_;
  size_t opcode_position_ = 0;
  std::deque<Node> arena_;
  std::vector<Node*> stack_;
  std::vector<size_t> marks_;
  std::map<uint64_t, Node*> memo_;
  std::map<std::string, size_t> storage_index_;
  Unpickled result_;
  size_t tree_values_ = 0, tree_text_ = 0;
};

}  // namespace iabn::io
