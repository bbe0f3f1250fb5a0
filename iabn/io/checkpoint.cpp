#include "iabn/io/checkpoint.h"

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <new>

#include "iabn/io/error.h"
#include "iabn/io/pytorch.h"
#include "iabn/io/safetensors.h"
#include "iabn/io/text.h"
#include "iabn/io/zip.h"

namespace iabn::io {
namespace {

struct Close {
  void operator()(std::FILE* file) const { std::fclose(file); }
};

std::shared_ptr<const std::vector<uint8_t>> read_file(const std::filesystem::path& path) {
  std::error_code error;
  const uintmax_t size = std::filesystem::file_size(path, error);  // also refuses folders and devices
  if (error) throw CheckpointError("cannot be read: " + error.message());
  const std::unique_ptr<std::FILE, Close> file(std::fopen(path.c_str(), "rb"));
  if (!file) throw CheckpointError(std::string("cannot be opened: ") + std::strerror(errno));
  std::vector<uint8_t> bytes(static_cast<size_t>(size));
  const size_t got = std::fread(bytes.data(), 1, bytes.size(), file.get());
  if (got != bytes.size()) {
    throw CheckpointError("expected " + std::to_string(bytes.size()) + " bytes, got " + std::to_string(got) +
                          "; the disk failed or the file is being written");
  }
  return std::make_shared<const std::vector<uint8_t>>(std::move(bytes));
}

// The format of PyTorch before 0.1.10 is a tar file.
bool looks_like_tar(ByteSpan file) { return file.size() > 262 && std::memcmp(file.data() + 257, "ustar", 5) == 0; }

Value dict_of(std::vector<std::pair<std::string, Tensor>> tensors) {
  Dict dict;
  for (auto& [name, tensor] : tensors) dict.items.push_back({std::move(name), std::move(tensor)});
  return dict;
}

}  // namespace

const char* name_of(Format format) {
  switch (format) {
    case Format::kPyTorchZip:
      return "PyTorch (zip)";
    case Format::kPyTorchLegacy:
      return "PyTorch (before 1.6)";
    default:
      return "safetensors";
  }
}

Checkpoint parse_checkpoint(ByteSpan file, const std::shared_ptr<const void>& owner) {
  Checkpoint result;
  result.file = file;
  if (looks_like_zip(file)) {
    PyTorchFile parsed = read_pytorch_zip(file, owner);
    result.root = std::move(parsed.root);
    result.suspicious_records = std::move(parsed.suspicious_records);
  } else if (looks_like_pytorch_legacy(file)) {
    result.format = Format::kPyTorchLegacy;
    result.root = read_pytorch_legacy(file, owner).root;
  } else if (looks_like_safetensors(file)) {
    result.format = Format::kSafetensors;
    SafetensorsFile parsed = read_safetensors(file, owner);
    result.root = dict_of(std::move(parsed.tensors));
    result.metadata = std::move(parsed.metadata);
  } else if (file.empty()) {
    throw CheckpointError("the file is empty");
  } else if (looks_like_tar(file)) {
    throw CheckpointError("a tar file, perhaps of PyTorch before 0.1.10, is not read: save it again with a newer one");
  } else if (file[0] == 0x80) {
    throw CheckpointError("a pickle without PyTorch's magic number: save it with torch.save, not with pickle");
  } else {
    throw CheckpointError("neither a file of torch.save nor a safetensors file, or only the beginning of one");
  }
  return result;
}

Checkpoint load_checkpoint(const std::filesystem::path& path) {
  try {
    const auto bytes = read_file(path);
    return parse_checkpoint(ByteSpan(*bytes), bytes);
  } catch (const CheckpointError& error) {
    throw CheckpointError(path.string() + ": " + error.what());
  } catch (const std::bad_alloc&) {
    throw CheckpointError(path.string() + ": not enough memory to read it");
  }
}

SnapshotInfo snapshot_info(const Checkpoint& checkpoint) {
  SnapshotInfo info;
  const auto look_up = [&](const char* key) -> std::optional<std::string> {
    for (const auto& [name, text] : checkpoint.metadata) {
      if (name == std::string("iabn.") + key) return text;
    }
    const Value* ours = checkpoint.root.find("iabn");
    const Value* value = ours != nullptr ? ours->find(key) : nullptr;
    const std::string* text = value != nullptr ? value->as<std::string>() : nullptr;
    return text != nullptr ? std::optional(*text) : std::nullopt;
  };
  info.config = look_up("config");
  info.version = look_up("version");
  info.classes = look_up("classes");
  if (const auto name = look_up("gamma")) {
    info.gamma = gamma_from_name(*name);
    if (!info.gamma) {
      throw CheckpointError("its gamma mode is \"" + printable(*name) + "\", known are signed and legacy");
    }
  }
  return info;
}

}  // namespace iabn::io
