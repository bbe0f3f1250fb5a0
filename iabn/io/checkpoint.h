#pragma once

// A checkpoint file of any kind that is read, and what is in it.

#include <filesystem>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "iabn/io/gamma.h"
#include "iabn/io/value.h"

namespace iabn::io {

enum class Format : uint8_t { kPyTorchZip, kPyTorchLegacy, kSafetensors };

/// "PyTorch (zip)", ...
const char* name_of(Format format);

struct Checkpoint {
  Format format = Format::kPyTorchZip;
  Value root;                                                 // of a safetensors file a dict of tensors
  std::vector<std::pair<std::string, std::string>> metadata;  // of a safetensors file
  std::vector<std::string> suspicious_records;                // of a zip: their checksums do not match
  ByteSpan file;  // the whole file; the tensors' storages refer to it and keep it alive
};

/// Reads a file into memory and parses it; its format is told by its first bytes. Throws CheckpointError that begins
/// with the path, for a file that cannot be read, is truncated, damaged or hostile, or holds more than tensors and
/// Python's plain types. Nothing in the file is executed, and memory stays within a small multiple of its size.
Checkpoint load_checkpoint(const std::filesystem::path& path);

/// The same of bytes in memory, which `owner` keeps alive.
Checkpoint parse_checkpoint(ByteSpan file, const std::shared_ptr<const void>& owner);

/// What iabn's own snapshots say of themselves: under "iabn" in PyTorch files, as "iabn.gamma", "iabn.config",
/// "iabn.version" and "iabn.classes" in the metadata of safetensors.
struct SnapshotInfo {
  std::optional<Gamma> gamma;
  std::optional<std::string> config;  // JSON
  std::optional<std::string> version;
  std::optional<std::string> classes;  // JSON: names in label order, of a classification network
};
/// Throws CheckpointError where the gamma mode is unknown.
SnapshotInfo snapshot_info(const Checkpoint& checkpoint);

/// The weights of a checkpoint.
struct StateDict {
  /// In the file's order. Dicts within the state dict are joined by dots ("body.mod1.conv1.weight"); where all keys of
  /// a dict begin with "module." (DataParallel), that is taken away.
  std::vector<std::pair<std::string, Tensor>> tensors;
  std::string path;  // the key under which it was found; "" = the file is the state dict
  bool had_module_prefix = false;
  std::vector<std::string> left_out;  // keys of the file that belong to no weight ("epoch", "optimizer")
};

/// The dict under "state_dict", else under "model", else the whole. Throws CheckpointError where there are no tensors,
/// or where two get the same key.
StateDict state_dict(const Value& root);

}  // namespace iabn::io
