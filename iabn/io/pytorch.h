#pragma once

// Files of torch.save: the zip format (PyTorch 1.6 and newer) and the one before.

#include <string>
#include <vector>

#include "iabn/io/value.h"

namespace iabn::io {

struct PyTorchFile {
  Value root;
  /// Records of a zip whose checksum does not match: damaged, or written with checksums off.
  std::vector<std::string> suspicious_records;
};

/// Reads a zip file of torch.save. The storages refer to `file`, which `owner` keeps alive. Throws CheckpointError.
PyTorchFile read_pytorch_zip(ByteSpan file, const std::shared_ptr<const void>& owner);

/// Reads the format of torch.save(..., _use_new_zipfile_serialization=False), which PyTorch before 1.6 wrote.
PyTorchFile read_pytorch_legacy(ByteSpan file, const std::shared_ptr<const void>& owner);

/// Begins with the pickled magic number of the old format.
bool looks_like_pytorch_legacy(ByteSpan file);

/// A zip file that torch.load(weights_only=True) reads, in memory: dicts, OrderedDicts, lists, tuples, None, bool, int,
/// float, str, bytes, dtypes, devices and tensors of any strides; tensors that share storage share it in the file.
/// Equal trees give equal bytes. Throws CheckpointError where the tree is nested too deep.
std::string pytorch_bytes(const Value& root);

}  // namespace iabn::io
