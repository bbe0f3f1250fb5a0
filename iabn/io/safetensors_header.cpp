#include "iabn/io/safetensors_header.h"

#include "iabn/io/error.h"
#include "iabn/io/text.h"

namespace iabn::io {
namespace {

using nlohmann::json;

// Takes the events of the JSON parser and allows only what the format has: no tree is ever built, nothing is nested
// deeper than a shape, and a repeated key is seen (a JSON tree would keep the last one).
class HeaderHandler final : public nlohmann::json_sax<json> {
 public:
  Header take() { return std::move(header_); }

  bool null() override { refuse("a null"); }
  bool boolean(bool) override { refuse("true or false"); }
  bool number_integer(number_integer_t) override { refuse("a negative number"); }
  bool number_float(number_float_t, const string_t&) override { refuse("a fraction"); }
  bool binary(binary_t&) override { refuse("binary data"); }

  bool number_unsigned(number_unsigned_t value) override {
    if (place_ != Place::kArray) refuse("a number");
    auto& numbers = field_ == "shape" ? entry().shape : entry().offsets;
    if (numbers.size() >= 64) refuse("more than 64 dimensions");
    numbers.push_back(value);
    return true;
  }

  bool string(string_t& value) override {
    if (place_ == Place::kMetadata) {
      header_.metadata.emplace_back(field_, value);
    } else if (place_ == Place::kEntry && field_ == "dtype") {
      entry().dtype = value;
    } else {
      refuse("a text");
    }
    return true;
  }

  bool start_object(size_t) override {
    if (place_ == Place::kStart) {
      place_ = Place::kTop;
    } else if (place_ == Place::kTop) {
      place_ = field_ == "__metadata__" ? Place::kMetadata : Place::kEntry;
      if (place_ == Place::kEntry) header_.entries.push_back({field_, "", {}, {}});
    } else {
      refuse("an object");
    }
    return true;
  }

  bool key(string_t& name) override {
    field_ = name;
    if (place_ == Place::kTop && !names_.insert(name).second) refuse("the name " + printable(name) + " twice");
    if (place_ == Place::kMetadata && !metadata_names_.insert(name).second)
      refuse("the name " + printable(name) + " twice");
    if (place_ == Place::kEntry) {
      bool& seen = name == "dtype"          ? entry().has_dtype
                   : name == "shape"        ? entry().has_shape
                   : name == "data_offsets" ? entry().has_offsets
                                            : (refuse("the unknown key " + printable(name)), entry().has_dtype);
      if (seen) refuse(name + " twice");
      seen = true;
    }
    return true;
  }

  bool end_object() override {
    if (place_ == Place::kEntry) {
      const HeaderEntry& done = entry();
      if (!done.has_dtype || !done.has_shape || !done.has_offsets || done.offsets.size() != 2) {
        throw CheckpointError("tensor " + printable(done.name) + " lacks dtype, shape or data_offsets");
      }
    }
    place_ = place_ == Place::kTop ? Place::kEnd : Place::kTop;
    return true;
  }

  bool start_array(size_t) override {
    if (place_ != Place::kEntry || field_ == "dtype") refuse("an array");
    place_ = Place::kArray;
    return true;
  }

  bool end_array() override {
    place_ = Place::kEntry;
    return true;
  }

  bool parse_error(size_t position, const std::string&, const nlohmann::detail::exception&) override {
    throw CheckpointError("the header is not JSON, at byte " + std::to_string(position) + " of it");
  }

 private:
  enum class Place : uint8_t { kStart, kTop, kMetadata, kEntry, kArray, kEnd };

  HeaderEntry& entry() { return header_.entries.back(); }

  [[noreturn]] void refuse(const std::string& what) const {
    const bool inside = place_ == Place::kEntry || place_ == Place::kArray;
    throw CheckpointError("the header has " + what + " in an unexpected place" +
                          (inside ? ", in tensor " + printable(header_.entries.back().name) : ""));
  }

  Header header_;
  Place place_ = Place::kStart;
  std::string field_;  // the key last seen
  std::set<std::string> names_, metadata_names_;
};

}  // namespace

Header parse_safetensors_header(std::string_view json) {
  HeaderHandler handler;
  nlohmann::json::sax_parse(json, &handler);
  return handler.take();
}

}  // namespace iabn::io
