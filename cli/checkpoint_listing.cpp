#include "cli/checkpoint_listing.h"

#include <algorithm>
#include <cstdio>
#include <map>
#include <vector>

#include "iabn/io/error.h"
#include "iabn/io/finite.h"
#include "iabn/io/gamma.h"
#include "iabn/io/md5.h"
#include "iabn/io/text.h"

namespace iabn::cli {
namespace {

using io::Tensor;
using io::Value;

std::string number(double value, const char* format) {
  char text[64];
  std::snprintf(text, sizeof text, format, value);
  return text;
}

std::string shape_of(const Tensor& tensor) {
  std::string text = "[";
  for (const int64_t size : tensor.sizes) text += (text.size() > 1 ? ", " : "") + std::to_string(size);
  return text + "]";
}

// A line per value, and what is summed up over all tensors. Printed at once: a hostile file may have many long keys.
class Listing {
 public:
  explicit Listing(std::ostream& out) : out_(out) {}

  void add(const std::string& key, const Value& value) {
    if (const Tensor* tensor = value.as<Tensor>()) {
      row(key, std::string(name_of(tensor->dtype)), describe(key, *tensor));
    } else if (const auto* dict = value.as<io::Dict>()) {
      if (dict->items.empty()) row(key, "dict", "empty");
      for (const io::Item& item : dict->items) add(join(key, io::text_of(item.key)), item.value);
    } else if (const auto* list = value.as<io::List>()) {
      add_items(key, "list", list->items);
    } else if (const auto* tuple = value.as<io::Tuple>()) {
      add_items(key, "tuple", tuple->items);
    } else {
      row(key, value.type_name(), describe_scalar(value));
    }
  }

  int64_t tensors = 0, elements = 0;
  size_t bytes = 0;
  io::NonFinite non_finite;

 private:
  void row(const std::string& key, const std::string& type, const std::string& text) {
    const auto padded = [](std::string cell, size_t width) {
      return cell.append(cell.size() < width ? width - cell.size() : 0, ' ');
    };
    out_ << padded(key, 44) << "  " << padded(type, 8) << "  " << text << "\n";
  }

  static std::string join(const std::string& path, const std::string& key) {
    return io::printable(path.empty() ? key : path + "." + key);
  }

  // Plain numbers on one line, anything else item by item.
  void add_items(const std::string& key, const char* type, const std::vector<Value>& items) {
    constexpr size_t kShort = 8;
    const bool plain = items.size() <= kShort && std::all_of(items.begin(), items.end(), [](const Value& item) {
                         return item.is<int64_t>() || item.is<double>() || item.is<bool>() || item.is<std::string>();
                       });
    if (!plain) {
      for (size_t i = 0; i < items.size(); ++i) add(join(key, std::to_string(i)), items[i]);
      return;
    }
    std::string text;
    for (const Value& item : items) text += (text.empty() ? "" : ", ") + describe_scalar(item);
    row(key, type, "(" + text + ")");
  }

  static std::string describe_scalar(const Value& value) {
    if (const auto* flag = value.as<bool>()) return *flag ? "True" : "False";
    if (const auto* integer = value.as<int64_t>()) return std::to_string(*integer);
    if (const auto* real = value.as<double>()) return number(*real, "%g");
    if (const auto* text = value.as<std::string>()) return "\"" + io::printable(*text, 60) + "\"";
    if (const auto* bytes = value.as<io::Bytes>()) return std::to_string(bytes->data.size()) + " bytes";
    if (value.is<io::BigInt>()) return "more than 64 bits";
    if (const auto* dtype = value.as<io::DType>()) return std::string(name_of(*dtype));
    if (const auto* device = value.as<io::Device>()) return io::printable(device->type, 20);
    return "";
  }

  std::string describe(const std::string& key, const Tensor& tensor) {
    const io::NonFinite found = count_non_finite(tensor);
    const size_t size = static_cast<size_t>(tensor.numel()) * size_of(tensor.dtype);
    ++tensors;
    elements += tensor.numel();
    bytes += size;
    non_finite.nan += found.nan;
    non_finite.infinite += found.infinite;
    std::string notes = tensor.is_parameter ? ", parameter" : "";
    if (found.nan > 0) notes += ", " + std::to_string(found.nan) + " NaN";
    if (found.infinite > 0) notes += ", " + std::to_string(found.infinite) + " infinite";
    if (!tensor.is_contiguous()) notes += ", not row-major";
    if (size == 0) return shape_of(tensor) + notes;
    const auto [first, is_new] = first_of_storage_.try_emplace(tensor.storage->bytes.data(), key);
    if (!is_new) {
      notes += ", shares the storage of " + first->second;
    } else if (tensor.storage->bytes.size() > size) {
      notes += ", a view of " + std::to_string(tensor.storage->bytes.size()) + " bytes";
    }
    return shape_of(tensor) + notes;
  }

  std::ostream& out_;
  std::map<const uint8_t*, std::string> first_of_storage_;
};

std::string accuracy(const io::Accuracy& result) {
  return number(result.top1, "%.2f") + "/" + number(result.top5, "%.2f");
}

void print_weights(std::ostream& out, const io::Checkpoint& checkpoint) {
  try {
    const io::StateDict weights = state_dict(checkpoint.root);
    out << "state dict: " << weights.tensors.size() << " tensors"
        << (weights.path.empty() ? "" : " under \"" + weights.path + "\"")
        << (weights.had_module_prefix ? ", keys prefixed \"module.\"" : "") << "\n";
  } catch (const io::CheckpointError& error) {
    out << "state dict: none, the file " << error.what() << "\n";
  }
}

}  // namespace

std::string describe_published(const io::PublishedModel* model) {
  if (model == nullptr) return "";
  const std::string name = "a published model of the original: " + std::string(model->name);
  if (model->vistas_miou > 0) return name + ", test mIoU " + number(model->vistas_miou, "%.2f");
  return name + ", batch " + std::to_string(model->batch_size) + ", top-1/top-5 " + accuracy(model->crop224) +
         " at 224, " + accuracy(model->ten_crops224) + " with ten crops, " + accuracy(model->crop320) + " at 320";
}

void print_checkpoint(std::ostream& out, const std::string& name, io::Checkpoint& checkpoint, double eps) {
  const std::string sum = io::md5(checkpoint.file);
  const io::PublishedModel* published = io::find_published_model(sum);
  out << name << ": " << name_of(checkpoint.format) << ", " << checkpoint.file.size() << " bytes, md5 " << sum << "\n";
  if (published != nullptr) out << describe_published(published) << "\n";
  Listing listing(out);
  listing.add("", checkpoint.root);
  for (const auto& [key, text] : checkpoint.metadata) {
    out << "metadata " << io::printable(key) << ": " << io::printable(text) << "\n";
  }
  out << "tensors: " << listing.tensors << ", " << listing.elements << " elements, " << listing.bytes << " bytes; "
      << listing.non_finite.nan << " NaN, " << listing.non_finite.infinite << " infinite\n";
  print_weights(out, checkpoint);
  const io::NormSummary norms = summarise_norms(checkpoint.root, eps);
  out << "norms: " << norms.norms << " with " << norms.channels << " channels; weights: " << norms.negative
      << " negative, " << norms.below_eps << " below eps " << number(eps, "%g") << "\n";
}

}  // namespace iabn::cli
