#include "iabn/io/zip.h"

#include <algorithm>
#include <optional>
#include <set>

#include <zlib.h>

#include "iabn/io/byte_reader.h"

namespace iabn::io {
namespace {

constexpr uint32_t kLocal = 0x04034b50, kCentral = 0x02014b50, kEnd = 0x06054b50;
constexpr uint32_t kEnd64 = 0x06064b50, kLocator64 = 0x07064b50;
constexpr size_t kEndSize = 22, kLocatorSize = 20, kLongestComment = 65535;
constexpr uint16_t kZip64Field = 1;
constexpr uint32_t kIn64 = 0xffffffff;  // the number is in the 64-bit field

struct Directory {
  uint64_t count, bytes, first;
};

ByteReader at(ByteSpan file, uint64_t position) {
  if (position > file.size()) throw CheckpointError("damaged zip file: a part begins beyond the end of the file");
  return ByteReader(file, static_cast<size_t>(position));
}

void expect(ByteReader& reader, uint32_t signature, const char* what) {
  if (reader.number<uint32_t>() != signature) {
    throw CheckpointError(std::string("damaged zip file: ") + what + " is not where it should be");
  }
}

size_t find_end(ByteSpan file) {
  if (file.size() >= kEndSize) {
    const size_t last = file.size() - kEndSize;
    const size_t first = last > kLongestComment ? last - kLongestComment : 0;
    for (size_t position = last + 1; position-- > first;) {
      if (ByteReader(file, position).number<uint32_t>() == kEnd) return position;
    }
  }
  throw CheckpointError("truncated: the zip file has no directory at its end");
}

Directory find_directory(ByteSpan file) {
  const size_t end = find_end(file);
  ByteReader reader(file, end + 4);
  const auto disk = reader.number<uint16_t>();
  reader.take(4);  // disk of the directory, records on this disk
  Directory directory{};
  directory.count = reader.number<uint16_t>();
  directory.bytes = reader.number<uint32_t>();
  directory.first = reader.number<uint32_t>();
  const bool in_64 = directory.count == 0xffff || directory.bytes == kIn64 || directory.first == kIn64;
  if (!in_64) {
    if (disk != 0) throw CheckpointError("a zip file in several parts is not read");
    return directory;
  }
  if (end < kLocatorSize) throw CheckpointError("damaged zip file: no 64-bit directory");
  ByteReader locator(file, end - kLocatorSize);
  expect(locator, kLocator64, "the locator of the 64-bit directory");
  locator.take(4);
  ByteReader end64 = at(file, locator.number<uint64_t>());
  expect(end64, kEnd64, "the end of the 64-bit directory");
  end64.take(28);  // sizes, versions, disks, records on this disk
  directory.count = end64.number<uint64_t>();
  directory.bytes = end64.number<uint64_t>();
  directory.first = end64.number<uint64_t>();
  return directory;
}

// Replaces those numbers that are too large for their 32 bits by what the 64-bit extra field says.
void read_zip64_field(ByteSpan extra, std::initializer_list<uint64_t*> numbers) {
  ByteReader reader(extra);
  while (reader.left() >= 4) {
    const auto kind = reader.number<uint16_t>();
    const ByteSpan field = reader.take(reader.number<uint16_t>());
    if (kind != kZip64Field) continue;
    ByteReader values(field);
    for (uint64_t* number : numbers) {
      if (*number == kIn64) *number = values.number<uint64_t>();
    }
    return;
  }
}

// Where the record's bytes are; its local header may be longer than the directory's entry.
ByteSpan data_of(ByteSpan file, uint64_t header, uint64_t size) {
  ByteReader reader = at(file, header);
  expect(reader, kLocal, "a record");
  reader.take(22);
  const auto name = reader.number<uint16_t>();
  const auto extra = reader.number<uint16_t>();
  reader.take(uint64_t{name} + extra);
  return reader.take(size);
}

ZipRecord read_entry(ByteSpan file, ByteReader& reader) {
  expect(reader, kCentral, "an entry of the directory");
  reader.take(4);
  const auto flags = reader.number<uint16_t>();
  const auto method = reader.number<uint16_t>();
  reader.take(4);  // time
  ZipRecord record;
  record.crc32 = reader.number<uint32_t>();
  uint64_t packed = reader.number<uint32_t>(), size = reader.number<uint32_t>();
  const auto name = reader.number<uint16_t>();
  const auto extra = reader.number<uint16_t>();
  const auto comment = reader.number<uint16_t>();
  reader.take(8);  // disk, attributes
  uint64_t header = reader.number<uint32_t>();
  record.name = reader.text(name);
  read_zip64_field(reader.take(extra), {&size, &packed, &header});
  reader.take(comment);
  if ((flags & 1) != 0) throw CheckpointError("the zip file is encrypted");
  record.stored = method == 0 && packed == size;
  record.bytes = data_of(file, header, packed);
  return record;
}

}  // namespace

bool looks_like_zip(ByteSpan file) { return file.size() >= 4 && ByteReader(file).number<uint32_t>() == kLocal; }

std::vector<ZipRecord> read_zip(ByteSpan file) {
  constexpr uint64_t kEntrySize = 46;
  const Directory directory = find_directory(file);
  ByteReader reader = at(file, directory.first);
  if (directory.bytes > reader.left() || directory.count > directory.bytes / kEntrySize) {
    throw CheckpointError("damaged zip file: the directory is longer than the file");
  }
  std::vector<ZipRecord> records;
  std::set<std::string> names;
  uint64_t total = 0;
  for (uint64_t i = 0; i < directory.count; ++i) {
    records.push_back(read_entry(file, reader));
    if (!names.insert(records.back().name).second) {
      throw CheckpointError("damaged zip file: two records of one name");
    }
    // Each is within the file, so the sum cannot overflow before it is too large.
    total += records.back().bytes.size();
    if (total > file.size()) throw CheckpointError("damaged zip file: its records overlap");
  }
  return records;
}

bool has_right_checksum(const ZipRecord& record) {
  return !record.stored || crc32_z(0, record.bytes.data(), record.bytes.size()) == record.crc32;
}

}  // namespace iabn::io
