// The opcodes. Names as in Python's pickletools.

#include <bit>
#include <charconv>
#include <cstdio>
#include <optional>

#include "iabn/io/pickle_machine.h"
#include "iabn/io/text.h"

namespace iabn::io {
namespace {

constexpr size_t kMaxIntegerBytes = 255;
constexpr size_t kMaxPickleBytes = size_t{1} << 28;

double big_endian_double(ByteSpan bytes) {
  uint64_t bits = 0;
  for (const uint8_t byte : bytes) bits = bits << 8 | byte;
  return std::bit_cast<double>(bits);
}

std::string hex(uint8_t byte) {
  char text[8];
  std::snprintf(text, sizeof text, "0x%02x", byte);
  return text;
}

bool is_utf8(std::string_view text) {
  for (size_t i = 0; i < text.size();) {
    const auto byte = [&](size_t at) { return static_cast<uint8_t>(text[at]); };
    const uint8_t first = byte(i);
    const size_t length = first < 0x80         ? 1
                          : (first >> 5) == 6  ? 2
                          : (first >> 4) == 14 ? 3
                          : (first >> 3) == 30 ? 4
                                               : 0;
    if (length == 0 || i + length > text.size()) return false;
    for (size_t k = 1; k < length; ++k) {
      if ((byte(i + k) >> 6) != 2) return false;
    }
    i += length;
  }
  return true;
}

}  // namespace

Unpickled read_pickle(ByteReader& reader) { return PickleMachine(reader).run(); }

void Unpickled::bind(PickledStorage& pickled, ByteSpan bytes, const std::shared_ptr<const void>& owner) {
  if (bytes.size() < pickled.bytes_claimed) {
    throw CheckpointError("storage " + printable(pickled.key) + " has " + std::to_string(bytes.size()) +
                          " bytes in the file, its tensors need " + std::to_string(pickled.bytes_claimed));
  }
  *pickled.storage = Storage{owner, bytes.first(pickled.bytes_claimed)};
}

void PickleMachine::fail(const std::string& text) const {
  throw CheckpointError("malformed pickle at byte " + std::to_string(opcode_position_) + ": " + text);
}

Unpickled PickleMachine::run() {
  while (step()) {
    if (reader_.position() - start_ > kMaxPickleBytes) fail("it is longer than any checkpoint's");
  }
  Node* root = pop();
  result_.root = tree(*root, 0);
  return std::move(result_);
}

Node* PickleMachine::top() {
  if (stack_.size() <= (marks_.empty() ? 0 : marks_.back())) fail("an operation lacks its operand");
  return stack_.back();
}

Node* PickleMachine::pop() {
  Node* node = top();
  stack_.pop_back();
  return node;
}

std::vector<Node*> PickleMachine::pop_to_mark() {
  if (marks_.empty()) fail("no mark on the stack");
  const auto first = stack_.begin() + static_cast<std::ptrdiff_t>(marks_.back());
  std::vector<Node*> items(first, stack_.end());
  stack_.erase(first, stack_.end());
  marks_.pop_back();
  return items;
}

bool PickleMachine::step() {
  opcode_position_ = reader_.position();
  const auto opcode = reader_.number<uint8_t>();
  switch (opcode) {
    case 0x80:  // PROTO
      if (const auto protocol = reader_.number<uint8_t>(); protocol > 5) {
        fail("protocol " + std::to_string(protocol) + ", known are 2 to 5");
      }
      return true;
    case 0x95:  // FRAME: only a hint of how much to read at once
      if (reader_.number<uint64_t>() > reader_.left()) fail("truncated: a frame ends beyond the file");
      return true;
    case '.':  // STOP
      if (!marks_.empty() || stack_.size() != 1) fail("it ends with something other than one value");
      return false;
    default:
      break;
  }
  if (push_scalar(opcode) || push_string(opcode) || push_container(opcode) || use_memo(opcode) || call(opcode)) {
    return true;
  }
  fail("opcode " + hex(opcode) + " is not one that files of tensors need");
}

void PickleMachine::push_integer(std::string_view little_endian) {
  if (little_endian.size() > kMaxIntegerBytes) fail("an integer of " + std::to_string(little_endian.size()) + " bytes");
  if (little_endian.size() > sizeof(int64_t)) {
    push(make(BigInt{std::string(little_endian)}));
    return;
  }
  uint64_t bits = 0;
  for (size_t i = 0; i < little_endian.size(); ++i) {
    bits |= static_cast<uint64_t>(static_cast<uint8_t>(little_endian[i])) << (8 * i);
  }
  const size_t unused = 64 - 8 * little_endian.size();
  // The sign bit of the last byte goes to the top and, arithmetically, down again.
  if (unused > 0 && unused < 64) bits = static_cast<uint64_t>(static_cast<int64_t>(bits << unused) >> unused);
  push(make(static_cast<int64_t>(bits)));
}

bool PickleMachine::push_scalar(uint8_t opcode) {
  switch (opcode) {
    case 'N':
      push(make(None{}));
      return true;
    case 0x88:  // NEWTRUE
    case 0x89:  // NEWFALSE
      push(make(opcode == 0x88));
      return true;
    case 'J':  // BININT
      push(make(int64_t{reader_.number<int32_t>()}));
      return true;
    case 'K':  // BININT1
      push(make(int64_t{reader_.number<uint8_t>()}));
      return true;
    case 'M':  // BININT2
      push(make(int64_t{reader_.number<uint16_t>()}));
      return true;
    case 0x8a:  // LONG1
      push_integer(reader_.text(reader_.number<uint8_t>()));
      return true;
    case 0x8b:  // LONG4
      push_integer(reader_.text(reader_.number<uint32_t>()));
      return true;
    case 'G':  // BINFLOAT
      push(make(big_endian_double(reader_.take(8))));
      return true;
    default:
      return false;
  }
}

bool PickleMachine::push_string(uint8_t opcode) {
  uint64_t length = 0;
  switch (opcode) {
    case 0x8c:  // SHORT_BINUNICODE
    case 'U':   // SHORT_BINSTRING, of Python 2
    case 'C':   // SHORT_BINBYTES
      length = reader_.number<uint8_t>();
      break;
    case 'X':  // BINUNICODE
    case 'T':  // BINSTRING
    case 'B':  // BINBYTES
      length = reader_.number<uint32_t>();
      break;
    case 0x8d:  // BINUNICODE8
    case 0x8e:  // BINBYTES8
      length = reader_.number<uint64_t>();
      break;
    default:
      return false;
  }
  std::string text(reader_.text(length));
  if (opcode == 'C' || opcode == 'B' || opcode == 0x8e) {
    push(make(Bytes{std::move(text)}));
    return true;
  }
  if (!is_utf8(text)) fail("a string is not UTF-8");
  push(make(std::move(text)));
  return true;
}

bool PickleMachine::push_container(uint8_t opcode) {
  const auto tuple_of_last = [&](size_t count) {
    std::vector<Node*> items(count);
    for (size_t i = count; i-- > 0;) items[i] = pop();
    push(make(TupleNode{std::move(items)}));
    return true;
  };
  switch (opcode) {
    case '(':
      marks_.push_back(stack_.size());
      return true;
    case ']':
      push(make(ListNode{}));
      return true;
    case '}':
      push(make(DictNode{}));
      return true;
    case ')':
      return tuple_of_last(0);
    case 0x85:
    case 0x86:
    case 0x87:  // TUPLE1 to TUPLE3
      return tuple_of_last(opcode - 0x84u);
    case 't':
      push(make(TupleNode{pop_to_mark()}));
      return true;
    case 'l':
      push(make(ListNode{pop_to_mark()}));
      return true;
    case 'd': {
      const std::vector<Node*> pairs = pop_to_mark();
      push(make(DictNode{}));
      set_items(top(), pairs);
      return true;
    }
    case 'a': {
      Node* item = pop();
      append(top(), {item});
      return true;
    }
    case 'e': {
      const std::vector<Node*> items = pop_to_mark();
      append(top(), items);
      return true;
    }
    case 's': {
      Node* value = pop();
      Node* key = pop();
      set_items(top(), {key, value});
      return true;
    }
    case 'u': {
      const std::vector<Node*> pairs = pop_to_mark();
      set_items(top(), pairs);
      return true;
    }
    default:
      return false;
  }
}

void PickleMachine::append(Node* list, const std::vector<Node*>& items) {
  auto* node = list->as<ListNode>();
  if (node == nullptr) fail("appends to something that is not a list");
  node->items.insert(node->items.end(), items.begin(), items.end());
}

void PickleMachine::set_items(Node* dict, const std::vector<Node*>& pairs) {
  auto* node = dict->as<DictNode>();
  if (node == nullptr) fail("sets items of something that is not a dict");
  if (pairs.size() % 2 != 0) fail("a key lacks its value");
  for (size_t i = 0; i < pairs.size(); i += 2) {
    Key key;
    if (const auto* number = pairs[i]->as<int64_t>()) {
      key = *number;
    } else if (const auto* name = pairs[i]->as<std::string>()) {
      key = *name;
    } else {
      fail("a key of a dict is neither a string nor an integer");
    }
    const auto [found, is_new] = node->index.try_emplace(key, node->items.size());
    if (is_new) {
      node->items.emplace_back(std::move(key), pairs[i + 1]);
    } else {
      node->items[found->second].second = pairs[i + 1];
    }
  }
}

bool PickleMachine::use_memo(uint8_t opcode) {
  const auto get = [&](uint64_t index) {
    const auto found = memo_.find(index);
    if (found == memo_.end()) fail("asks for memo " + std::to_string(index) + ", which was never stored");
    push(found->second);
    return true;
  };
  switch (opcode) {
    case 'q':  // BINPUT
      memo_[reader_.number<uint8_t>()] = top();
      return true;
    case 'r':  // LONG_BINPUT
      memo_[reader_.number<uint32_t>()] = top();
      return true;
    case 0x94: {  // MEMOIZE
      const size_t next = memo_.size();
      memo_[next] = top();
      return true;
    }
    case 'h':
      return get(reader_.number<uint8_t>());
    case 'j':
      return get(reader_.number<uint32_t>());
    case '0':  // POP, of a mark where that is on top
      if (!marks_.empty() && marks_.back() == stack_.size()) {
        marks_.pop_back();
      } else {
        pop();
      }
      return true;
    case '1':  // POP_MARK
      pop_to_mark();
      return true;
    default:
      return false;
  }
}

bool PickleMachine::call(uint8_t opcode) {
  switch (opcode) {
    case 'c': {  // GLOBAL
      const std::string_view module = reader_.line();
      push(find_class(module, reader_.line()));
      return true;
    }
    case 0x93: {  // STACK_GLOBAL
      Node* name = pop();
      Node* module = pop();
      push(find_class(text(module, "the module of a class"), text(name, "the name of a class")));
      return true;
    }
    case 'R':     // REDUCE
    case 0x81: {  // NEWOBJ: without arguments, as it is used for OrderedDict, the same
      Node* arguments = pop();
      Node* function = pop();
      push(reduce(function, arguments));
      return true;
    }
    case 'b': {  // BUILD
      Node* state = pop();
      build(top(), state);
      return true;
    }
    case 'Q':  // BINPERSID
      push(load_storage(pop()));
      return true;
    default:
      return false;
  }
}

}  // namespace iabn::io
