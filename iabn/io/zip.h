#pragma once

// The directory of a zip file whose records are stored, not compressed, as PyTorch writes them.
//
// Why not LibTorch's PyTorchStreamReader: it allocates whatever a compressed record claims to unpack to (4 GB for a
// file of 1 KB, tried with PyTorch 2.11), copies every record, and lies in a library that no sanitizer sees into.
// Records that are only stored need no more than their directory. Files are written through LibTorch's
// PyTorchStreamWriter.

#include <string>
#include <vector>

#include "iabn/io/value.h"

namespace iabn::io {

struct ZipRecord {
  std::string name;
  ByteSpan bytes;
  uint32_t crc32 = 0;  // as the file says; see has_right_checksum
  bool stored = true;  // else `bytes` are compressed, which nothing here undoes
};

/// The records in the order of the directory. Throws CheckpointError where a record is encrypted, lies outside the
/// file, or bears the name of another one.
std::vector<ZipRecord> read_zip(ByteSpan file);

/// PyTorch can be told to write no checksums, so a wrong one is a hint and not an error. True for compressed records.
bool has_right_checksum(const ZipRecord& record);

/// Begins as a zip file does.
bool looks_like_zip(ByteSpan file);

}  // namespace iabn::io
