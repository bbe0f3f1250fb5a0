// What classes, calls and persistent ids of a pickle mean: only what tensors need exists here.

#include <array>
#include <optional>

#include "iabn/io/layout.h"
#include "iabn/io/pickle_machine.h"
#include "iabn/io/text.h"

namespace iabn::io {
namespace {

constexpr size_t kMaxDims = 64;  // LibTorch's own limit

struct KnownClass {
  std::string_view name;
  Class kind;
};
constexpr std::array<KnownClass, 9> kClasses{{
    {"collections.OrderedDict", Class::kOrderedDict},
    {"torch._utils._rebuild_tensor", Class::kRebuildTensor},
    {"torch._utils._rebuild_tensor_v2", Class::kRebuildTensorV2},
    {"torch._utils._rebuild_tensor_v3", Class::kRebuildTensorV3},
    {"torch._utils._rebuild_parameter", Class::kRebuildParameter},
    {"torch.storage.UntypedStorage", Class::kStorage},
    {"torch.Size", Class::kSize},
    {"torch.device", Class::kDevice},
    {"_codecs.encode", Class::kEncode},
}};

}  // namespace

Node* PickleMachine::find_class(std::string_view module, std::string_view name) {
  const std::string full = std::string(module) + "." + std::string(name);
  for (const KnownClass& known : kClasses) {
    if (known.name == full) return make(ClassNode{known.kind, full, std::nullopt});
  }
  if (module == "torch") {
    if (const auto dtype = dtype_from_name(name)) return make(*dtype);
  }
  if (module == "torch" || module == "torch.cuda") {
    if (const auto dtype = dtype_from_storage_class(name)) return make(ClassNode{Class::kStorage, full, dtype});
  }
  throw CheckpointError("it asks for " + printable(full) +
                        ", which is not read: only tensors and Python's plain types are; save a state_dict()");
}

int64_t PickleMachine::integer(Node* node, const char* what) const {
  const auto* value = node->as<int64_t>();
  if (value == nullptr) fail(std::string(what) + " is not an integer");
  return *value;
}

const std::string& PickleMachine::text(Node* node, const char* what) const {
  const auto* value = node->as<std::string>();
  if (value == nullptr) fail(std::string(what) + " is not a string");
  return *value;
}

std::vector<int64_t> PickleMachine::integers(Node* node, const char* what) const {
  const auto* tuple = node->as<TupleNode>();
  if (tuple == nullptr) fail(std::string(what) + " is not a tuple");
  if (tuple->items.size() > kMaxDims) {
    fail(std::string(what) + " has " + std::to_string(tuple->items.size()) + " dimensions");
  }
  std::vector<int64_t> result;
  for (Node* item : tuple->items) result.push_back(integer(item, what));
  return result;
}

Node* PickleMachine::reduce(Node* function, Node* arguments) {
  const auto* callee = function->as<ClassNode>();
  if (callee == nullptr) fail("calls something that is not a class");
  const auto* tuple = arguments->as<TupleNode>();
  if (tuple == nullptr) fail("the arguments of " + callee->name + " are not a tuple");
  switch (callee->kind) {
    case Class::kOrderedDict:
      return make_ordered_dict(tuple->items);
    case Class::kRebuildTensor:
    case Class::kRebuildTensorV2:
    case Class::kRebuildTensorV3:
      return rebuild_tensor(callee->kind, tuple->items);
    case Class::kRebuildParameter:
      return rebuild_parameter(tuple->items);
    case Class::kSize: {
      if (tuple->items.size() != 1) fail("torch.Size takes one argument");
      TupleNode size;
      size.is_size = true;
      for (const int64_t value : integers(tuple->items[0], "torch.Size")) size.items.push_back(make(value));
      return make(std::move(size));
    }
    case Class::kDevice:
      return make_device(tuple->items);
    case Class::kEncode:
      return encode(tuple->items);
    case Class::kStorage:
      break;
  }
  fail("calls " + callee->name);
}

Node* PickleMachine::make_ordered_dict(const std::vector<Node*>& arguments) {
  DictNode dict;
  dict.ordered = true;
  Node* result = make(std::move(dict));
  if (arguments.empty()) return result;
  // Python 2 wrote the items as the one argument, a list of pairs.
  const auto* items = arguments.size() == 1 ? arguments[0]->as<ListNode>() : nullptr;
  if (items == nullptr) fail("the argument of collections.OrderedDict is not a list of pairs");
  for (Node* item : items->items) {
    const auto* list = item->as<ListNode>();
    const auto* tuple = item->as<TupleNode>();
    const std::vector<Node*>* pair = list != nullptr ? &list->items : tuple != nullptr ? &tuple->items : nullptr;
    if (pair == nullptr || pair->size() != 2) fail("the argument of collections.OrderedDict is not a list of pairs");
    set_items(result, *pair);
  }
  return result;
}

Node* PickleMachine::make_device(const std::vector<Node*>& arguments) {
  if (arguments.empty() || arguments.size() > 2) fail("torch.device takes a type and an index");
  Device device{text(arguments[0], "the type of torch.device")};
  if (arguments.size() == 2) device.index = integer(arguments[1], "the index of torch.device");
  return make(std::move(device));
}

// How protocol 2 stores bytes: as text in which each character is one of them.
Node* PickleMachine::encode(const std::vector<Node*>& arguments) {
  if (arguments.size() != 2 || text(arguments[1], "an encoding") != "latin1") {
    fail("_codecs.encode is known for latin1 only");
  }
  const std::string& source = text(arguments[0], "the argument of _codecs.encode");
  Bytes bytes;
  for (size_t i = 0; i < source.size(); ++i) {
    const auto c = static_cast<uint8_t>(source[i]);
    if (c < 0x80) {
      bytes.data += static_cast<char>(c);
    } else if ((c == 0xc2 || c == 0xc3) && i + 1 < source.size()) {
      bytes.data += static_cast<char>((c & 3) << 6 | (static_cast<uint8_t>(source[++i]) & 0x3f));
    } else {
      fail("a character is not one of latin1");
    }
  }
  return make(std::move(bytes));
}

void PickleMachine::build(Node* object, Node* state) {
  auto* dict = object->as<DictNode>();
  if (dict == nullptr || !dict->ordered || state->as<DictNode>() == nullptr) {
    fail("sets the state of an object other than an OrderedDict");
  }
  dict->attributes = state;
}

Node* PickleMachine::load_storage(Node* id) {
  const auto* tuple = id->as<TupleNode>();
  if (tuple == nullptr || tuple->items.empty()) fail("a persistent id is not a tuple");
  const std::vector<Node*>& items = tuple->items;
  if (const std::string& kind = text(items[0], "the kind of a persistent id"); kind != "storage") {
    fail("a persistent id of kind \"" + printable(kind) +
         "\": only storages are read, no modules; save a state_dict()");
  }
  if (items.size() != 5 && items.size() != 6)
    fail("the id of a storage has " + std::to_string(items.size()) + " parts");
  const auto* type = items[1]->as<ClassNode>();
  if (type == nullptr || type->kind != Class::kStorage) fail("the type of a storage is not a storage class");
  const std::string& key = text(items[2], "the key of a storage");
  text(items[3], "the location of a storage");
  const size_t item_size = type->dtype ? size_of(*type->dtype) : 1;
  const auto bytes_of = [&](Node* node, const char* what) {
    const int64_t count = integer(node, what);
    int64_t bytes = 0;
    if (count < 0 || __builtin_mul_overflow(count, static_cast<int64_t>(item_size), &bytes)) {
      fail(std::string(what) + " is " + std::to_string(count));
    }
    return static_cast<size_t>(bytes);
  };
  const size_t bytes = bytes_of(items[4], "the size of a storage");

  const auto [found, is_new] = storage_index_.try_emplace(key, result_.storages.size());
  if (is_new) result_.storages.push_back({key, item_size, bytes, std::make_shared<Storage>()});
  if (result_.storages[found->second].bytes_claimed != bytes) fail("two sizes of storage " + printable(key));
  StorageNode node{found->second, type->dtype, 0, bytes};
  // The old format's views: (key, first element, number of elements).
  if (items.size() == 6 && items[5]->as<None>() == nullptr) {
    const auto* view = items[5]->as<TupleNode>();
    if (view == nullptr || view->items.size() != 3) fail("the view of a storage is not a tuple of three");
    node.first_byte = bytes_of(view->items[1], "the offset of a view");
    node.bytes = bytes_of(view->items[2], "the size of a view");
    if (node.first_byte > bytes || node.bytes > bytes - node.first_byte) fail("a view lies outside its storage");
  }
  return make(node);
}

// (storage, offset, sizes, strides[, requires_grad, hooks[, dtype of version 3][, metadata]])
Node* PickleMachine::rebuild_tensor(Class kind, const std::vector<Node*>& arguments) {
  const size_t least = kind == Class::kRebuildTensor ? 4 : kind == Class::kRebuildTensorV2 ? 6 : 7;
  if (arguments.size() < least || arguments.size() > least + (kind == Class::kRebuildTensor ? 0 : 1)) {
    fail("a tensor has " + std::to_string(arguments.size()) + " arguments");
  }
  const auto* storage = arguments[0]->as<StorageNode>();
  if (storage == nullptr) fail("the storage of a tensor is something else");
  Tensor tensor;
  tensor.storage = result_.storages[storage->index].storage;
  tensor.offset = integer(arguments[1], "the offset of a tensor");
  tensor.sizes = integers(arguments[2], "the size of a tensor");
  tensor.strides = integers(arguments[3], "the stride of a tensor");
  if (least > 4) {
    const auto* requires_grad = arguments[4]->as<bool>();
    if (requires_grad == nullptr) fail("requires_grad of a tensor is not a bool");
    tensor.requires_grad = *requires_grad;
  }
  std::optional<DType> dtype = storage->dtype;
  if (kind == Class::kRebuildTensorV3) {
    const auto* named = arguments[6]->as<DType>();
    if (named == nullptr) fail("the dtype of a tensor is something else");
    dtype = *named;
  }
  if (!dtype) fail("a tensor without a dtype");
  if (arguments.size() > least) {
    // Bits such as "conjugated" would change every value.
    const auto* metadata = arguments[least]->as<DictNode>();
    if (arguments[least]->as<None>() == nullptr && (metadata == nullptr || !metadata->items.empty())) {
      fail("a tensor with metadata (such as a conjugated or negated view): save it after resolve_conj()");
    }
  }
  tensor.dtype = *dtype;
  const size_t item_size = size_of(*dtype);
  const auto extent = checked_extent(tensor.sizes, tensor.strides, tensor.offset);
  if (!extent || (*checked_numel(tensor.sizes) > 0 && static_cast<size_t>(*extent) > storage->bytes / item_size)) {
    fail("a tensor reaches beyond its storage");
  }
  if (storage->first_byte % item_size != 0) fail("a view begins inside an element");
  if (*checked_numel(tensor.sizes) == 0) tensor.offset = 0;
  tensor.offset += static_cast<int64_t>(storage->first_byte / item_size);
  return make(std::move(tensor));
}

Node* PickleMachine::rebuild_parameter(const std::vector<Node*>& arguments) {
  if (arguments.size() != 3) fail("a parameter has " + std::to_string(arguments.size()) + " arguments");
  const auto* data = arguments[0]->as<Tensor>();
  const auto* requires_grad = arguments[1]->as<bool>();
  if (data == nullptr || requires_grad == nullptr) fail("a parameter is not (tensor, bool, hooks)");
  Tensor tensor = *data;
  tensor.requires_grad = *requires_grad;
  tensor.is_parameter = true;
  return make(std::move(tensor));
}

}  // namespace iabn::io
