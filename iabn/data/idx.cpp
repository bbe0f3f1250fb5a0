#include "iabn/data/idx.h"

#include <zlib.h>

#include <algorithm>
#include <array>
#include <optional>
#include <utility>

#include "iabn/data/error.h"

namespace iabn::data {
namespace {

namespace fs = std::filesystem;

constexpr const char* kHelp = "; put the four files of MNIST or Fashion-MNIST there, plain or .gz";

// "train" and "images" -> root/train-images-idx3-ubyte, or .gz, or with the dots of some copies.
std::optional<fs::path> find_file(const fs::path& root, const std::string& prefix, const std::string& kind) {
  for (const std::string separator : {"-", "."}) {
    const std::string plain = prefix + "-" + kind + separator + (kind == "images" ? "idx3" : "idx1") + "-ubyte";
    for (const std::string& name : {plain, plain + ".gz"}) {
      if (fs::is_regular_file(root / name)) return root / name;
    }
  }
  return std::nullopt;
}

fs::path require_file(const fs::path& root, const std::string& prefix, const std::string& kind) {
  if (auto path = find_file(root, prefix, kind)) return *std::move(path);
  const std::string name = prefix + "-" + kind + (kind == "images" ? "-idx3-ubyte" : "-idx1-ubyte");
  throw DataError("open_dataset", (root / name).string(), std::string("expected this file, got none") + kHelp);
}

// One file; zlib reads plain files as they are.
class Reader {
 public:
  explicit Reader(const fs::path& path) : path_(path.string()), file_(gzopen(path.c_str(), "rb")) {
    if (!file_) throw DataError("open_dataset", path_, "cannot be opened");
    gzbuffer(file_.get(), 1 << 17);
  }

  // Up to `size` bytes; fewer at the end of the file.
  size_t read(uint8_t* to, size_t size) {
    size_t done = 0;
    while (done < size) {
      const auto step = static_cast<unsigned>(std::min<size_t>(size - done, 1 << 24));
      const int got = gzread(file_.get(), to + done, step);
      if (got < 0) {
        int code = 0;
        throw DataError("open_dataset", path_, std::string("cannot be read: ") + gzerror(file_.get(), &code));
      }
      if (got == 0) break;
      done += static_cast<size_t>(got);
    }
    return done;
  }

  uint32_t read_big_endian() {
    std::array<uint8_t, 4> b{};
    if (read(b.data(), b.size()) != b.size()) throw DataError("open_dataset", path_, "truncated within its header");
    return uint32_t{b[0]} << 24 | uint32_t{b[1]} << 16 | uint32_t{b[2]} << 8 | b[3];
  }

  // The rest of the file, which must be exactly this long. Memory grows with what is there, not with what the header of
  // a hostile file declares.
  std::vector<uint8_t> read_rest(int64_t size) {
    std::vector<uint8_t> bytes;
    while (static_cast<int64_t>(bytes.size()) < size) {
      const size_t before = bytes.size();
      const size_t step = static_cast<size_t>(std::min<int64_t>(size - static_cast<int64_t>(before), 1 << 26));
      bytes.resize(before + step);
      const size_t got = read(bytes.data() + before, step);
      if (got < step) {
        throw DataError("open_dataset", path_,
                        "truncated: expected " + std::to_string(size) + " bytes after the header, got " +
                            std::to_string(before + got) + "; fetch the file again");
      }
    }
    uint8_t extra = 0;
    if (read(&extra, 1) != 0) {
      throw DataError("open_dataset", path_,
                      "expected " + std::to_string(size) + " bytes after the header, got more; fetch the file again");
    }
    return bytes;
  }

  const std::string& path() const { return path_; }

 private:
  struct Close {
    void operator()(gzFile file) const { gzclose(file); }
  };
  std::string path_;
  std::unique_ptr<gzFile_s, Close> file_;
};

// The sizes of an idx file of unsigned bytes.
template <size_t N>
std::array<int64_t, N> read_sizes(Reader& reader) {
  constexpr uint32_t kMagic = 0x0800 + N;
  const uint32_t magic = reader.read_big_endian();
  if (magic != kMagic) {
    throw DataError("open_dataset", reader.path(),
                    "expected an idx file of bytes with " + std::to_string(N) + " dimensions (magic number " +
                        std::to_string(kMagic) + "), got " + std::to_string(magic));
  }
  std::array<int64_t, N> sizes{};
  for (int64_t& size : sizes) {
    size = reader.read_big_endian();
    if (size < 1) throw DataError("open_dataset", reader.path(), "expected sizes of at least 1, got 0");
  }
  return sizes;
}

std::vector<uint8_t> read_labels(const fs::path& path) {
  Reader reader(path);
  const auto [count] = read_sizes<1>(reader);
  return reader.read_rest(count);
}

int64_t class_count(const std::vector<uint8_t>& labels) {
  return int64_t{*std::max_element(labels.begin(), labels.end())} + 1;
}

class IdxDataset final : public Dataset {
 public:
  IdxDataset(const fs::path& root, Split split, int64_t channels) : channels_(channels) {
    const std::string prefix = split == Split::train ? "train" : "t10k";
    const fs::path label_path = require_file(root, prefix, "labels");
    Reader reader(require_file(root, prefix, "images"));
    path_ = reader.path();
    labels_ = read_labels(label_path);

    const auto [count, height, width] = read_sizes<3>(reader);
    if (count != size()) {
      throw DataError("open_dataset", label_path.string(),
                      "expected " + std::to_string(count) + " labels (images in " + path_ + "), got " +
                          std::to_string(size()) + "; the files do not belong together");
    }
    if (height > kMaxPixels / width || count > (int64_t{1} << 40) / (height * width)) {
      throw DataError("open_dataset", path_,
                      "images are too large: " + std::to_string(count) + " of " + std::to_string(height) + " x " +
                          std::to_string(width));
    }
    height_ = height;
    width_ = width;
    pixels_ = reader.read_rest(count * height * width);
    name_classes(root, split, label_path);
  }

  int64_t size() const override { return static_cast<int64_t>(labels_.size()); }
  const std::vector<std::string>& classes() const override { return classes_; }
  int64_t channels() const override { return channels_; }
  int64_t label(int64_t index) const override { return labels_.at(static_cast<size_t>(index)); }
  std::string name(int64_t index) const override { return path_ + "[" + std::to_string(index) + "]"; }

  Image image(int64_t index) const override {
    if (index < 0 || index >= size()) throw DataError("image", name(index), "no such image");
    const uint8_t* pixels = pixels_.data() + index * height_ * width_;
    if (channels_ == 1) return {height_, width_, 1, pixels};
    Image rgb = make_image(height_, width_, 3);
    for (int64_t i = 0; i < height_ * width_; ++i) {
      for (int64_t c = 0; c < 3; ++c) rgb.owned[3 * i + c] = pixels[i];
    }
    return rgb;
  }

 private:
  // The format does not tell the number of classes: the training labels do, for both splits.
  void name_classes(const fs::path& root, Split split, const fs::path& label_path) {
    const auto train_path = find_file(root, "train", "labels");
    const int64_t own = class_count(labels_);
    const int64_t count = split == Split::val && train_path ? class_count(read_labels(*train_path)) : own;
    if (own > count) {
      throw DataError("open_dataset", label_path.string(),
                      "expected labels of 0 to " + std::to_string(count - 1) + " (those of " + train_path->string() +
                          "), got " + std::to_string(own - 1));
    }
    for (int64_t i = 0; i < count; ++i) classes_.push_back(std::to_string(i));
  }

  int64_t channels_;
  int64_t height_ = 0;
  int64_t width_ = 0;
  std::string path_;
  std::vector<uint8_t> labels_;  // [N]
  std::vector<uint8_t> pixels_;  // [N, height, width]
  std::vector<std::string> classes_;
};

}  // namespace

bool is_idx_folder(const fs::path& root) {
  for (const char* prefix : {"train", "t10k"}) {
    for (const char* kind : {"images", "labels"}) {
      if (find_file(root, prefix, kind)) return true;
    }
  }
  return false;
}

std::shared_ptr<const Dataset> open_idx(const fs::path& root, Split split, int64_t channels) {
  return std::make_shared<IdxDataset>(root, split, channels);
}

}  // namespace iabn::data
