#include <bit>
#include <limits>
#include <unordered_map>

#include "iabn/io/pickle.h"

namespace iabn::io {
namespace {

class PickleWriter {
 public:
  Pickled run(const Value& root) {
    out_ += "\x80\x02";  // PROTO 2
    write(root, 0);
    out_ += '.';
    return std::move(result_);
  }

  explicit PickleWriter() : out_(result_.bytes) {}

 private:
  template <class T>
  void number(T value) {
    out_.append(reinterpret_cast<const char*>(&value), sizeof value);
  }

  void write(const Value& value, int depth) {
    if (depth > kMaxPickleDepth) {
      throw CheckpointError("values are nested more than " + std::to_string(kMaxPickleDepth) + " deep");
    }
    std::visit([&](const auto& data) { write_data(data, depth); }, value.data());
  }

  void write_data(None, int) { out_ += 'N'; }
  void write_data(bool value, int) { out_ += value ? '\x88' : '\x89'; }
  void write_data(int64_t value, int) { integer(value); }
  void write_data(const std::string& value, int) { text(value); }
  void write_data(DType value, int) { global("torch", name_of(value)); }

  void write_data(double value, int) {
    out_ += 'G';
    const auto bits = std::bit_cast<uint64_t>(value);
    for (int shift = 56; shift >= 0; shift -= 8) out_ += static_cast<char>(bits >> shift & 0xff);
  }

  void write_data(const BigInt& value, int) {
    out_ += '\x8a';  // LONG1
    out_ += static_cast<char>(value.data.size());
    out_ += value.data;
  }

  // Protocol 2 has no bytes: text in which each character stands for one.
  void write_data(const Bytes& value, int) {
    std::string latin1;
    for (const char c : value.data) {
      const auto byte = static_cast<uint8_t>(c);
      if (byte < 0x80) {
        latin1 += c;
      } else {
        latin1 += static_cast<char>(0xc0 | byte >> 6);
        latin1 += static_cast<char>(0x80 | (byte & 0x3f));
      }
    }
    global("_codecs", "encode");
    text(latin1);
    text("latin1");
    out_ += "\x86R";
  }

  void write_data(const Device& value, int) {
    global("torch", "device");
    text(value.type);
    if (value.index >= 0) integer(value.index);
    out_ += value.index >= 0 ? "\x86R" : "\x85R";
  }

  void write_data(const List& value, int depth) {
    out_ += ']';
    if (value.items.empty()) return;
    out_ += '(';
    for (const Value& item : value.items) write(item, depth + 1);
    out_ += 'e';
  }

  void write_data(const Tuple& value, int depth) {
    if (value.is_size) global("torch", "Size");
    out_ += '(';
    for (const Value& item : value.items) write(item, depth + 1);
    out_ += 't';
    if (value.is_size) out_ += "\x85R";
  }

  void write_data(const Dict& value, int depth) {
    if (value.ordered) {
      global("collections", "OrderedDict");
      out_ += ")R";
    } else {
      out_ += '}';
    }
    if (!value.items.empty()) {
      out_ += '(';
      for (const Item& item : value.items) {
        if (const auto* key = std::get_if<int64_t>(&item.key)) {
          integer(*key);
        } else {
          text(std::get<std::string>(item.key));
        }
        write(item.value, depth + 1);
      }
      out_ += 'u';
    }
    if (value.ordered && value.attributes != nullptr) {
      write(*value.attributes, depth + 1);
      out_ += 'b';
    }
  }

  void write_data(const Tensor& tensor, int) {
    if (tensor.is_parameter) {
      global("torch._utils", "_rebuild_parameter");
      out_ += '(';
    }
    global("torch._utils", "_rebuild_tensor_v2");
    out_ += "((";
    text("storage");
    global("torch", storage_class_of(tensor.dtype));
    const size_t bytes = tensor.storage->bytes.size();
    text(storage_key(tensor.storage, tensor.dtype));
    text("cpu");
    integer(static_cast<int64_t>(bytes / size_of(tensor.dtype)));
    out_ += "tQ";
    integer(tensor.offset);
    integers(tensor.sizes);
    integers(tensor.strides);
    // A parameter says itself whether it requires a gradient.
    write_data(tensor.requires_grad && !tensor.is_parameter, 0);
    no_hooks();
    out_ += "tR";
    if (tensor.is_parameter) {
      write_data(tensor.requires_grad, 0);
      no_hooks();
      out_ += "tR";
    }
  }

  void no_hooks() {
    global("collections", "OrderedDict");
    out_ += ")R";
  }

  void integer(int64_t value) {
    if (value >= 0 && value < 256) {
      out_ += 'K';
      out_ += static_cast<char>(value);
    } else if (value >= std::numeric_limits<int32_t>::min() && value <= std::numeric_limits<int32_t>::max()) {
      out_ += 'J';
      number(static_cast<int32_t>(value));
    } else {
      out_ += "\x8a\x08";  // LONG1 of 8 bytes
      number(value);
    }
  }

  void integers(const std::vector<int64_t>& values) {
    out_ += '(';
    for (const int64_t value : values) integer(value);
    out_ += 't';
  }

  void text(std::string_view value) {
    if (value.size() > std::numeric_limits<uint32_t>::max()) throw CheckpointError("a text of more than 4 GiB");
    out_ += 'X';
    number(static_cast<uint32_t>(value.size()));
    out_ += value;
  }

  // Names repeat with every tensor, so they are remembered.
  void global(std::string_view module, std::string_view name) {
    std::string line = "c" + std::string(module) + "\n" + std::string(name) + "\n";
    const auto [found, is_new] = memo_.try_emplace(line, static_cast<uint8_t>(memo_.size()));
    if (is_new) out_ += line;
    out_ += is_new ? 'q' : 'h';
    out_ += static_cast<char>(found->second);
  }

  // Two tensors share storage where its bytes are the same memory. torch.load wants one type per storage.
  std::string storage_key(const std::shared_ptr<const Storage>& storage, DType dtype) {
    const std::string identity = std::to_string(reinterpret_cast<uintptr_t>(storage->bytes.data())) + " " +
                                 std::to_string(storage->bytes.size()) + " " + std::string(name_of(dtype));
    const auto [found, is_new] = storages_.try_emplace(identity, result_.storages.size());
    if (is_new) result_.storages.push_back(storage);
    return std::to_string(found->second);
  }

  Pickled result_;
  std::string& out_;
  std::unordered_map<std::string, uint8_t> memo_;  // a few dozen names exist
  std::unordered_map<std::string, size_t> storages_;
};

}  // namespace

Pickled write_pickle(const Value& root) { return PickleWriter().run(root); }

}  // namespace iabn::io
