// Files that are replaced as a whole or not at all.

#include <csignal>
#include <filesystem>

#include <gmock/gmock.h>
#include <sys/resource.h>

#include "iabn/train/atomic_file.h"
#include "tests/cpp/train_support.h"

namespace iabn::train {
namespace {

namespace fs = std::filesystem;
using testing::AllOf;
using testing::HasSubstr;

// What a full disk does, without filling one: no file of this process may grow beyond `bytes`.
class SmallDisk {
 public:
  explicit SmallDisk(rlim_t bytes) : old_handler_(std::signal(SIGXFSZ, SIG_IGN)) {
    getrlimit(RLIMIT_FSIZE, &old_limit_);
    const rlimit limit{bytes, old_limit_.rlim_max};
    setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~SmallDisk() {
    setrlimit(RLIMIT_FSIZE, &old_limit_);
    std::signal(SIGXFSZ, old_handler_);
  }

 private:
  rlimit old_limit_{};
  void (*old_handler_)(int);
};

std::vector<std::string> names_in(const fs::path& folder) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) names.push_back(entry.path().filename());
  return names;
}

TEST(AtomicFile, ReplacesTheWholeContent) {
  const test::TemporaryFolder folder("atomic");
  const fs::path path = folder.path() / "file";
  replace_file(path, "a long first content");
  replace_file(path, "short");
  EXPECT_EQ(test::read_file(path), "short");
  EXPECT_EQ(names_in(folder.path()), std::vector<std::string>{"file"});
}

TEST(AtomicFile, AFullDiskLeavesTheOldFileAndNoRubbish) {
  const test::TemporaryFolder folder("full_disk");
  const fs::path path = folder.path() / "file";
  replace_file(path, "old");
  {
    const SmallDisk disk(4096);
    try {
      replace_file(path, std::string(100000, 'x'));
      FAIL() << "no error";
    } catch (const FileError& error) {
      EXPECT_THAT(error.what(), AllOf(HasSubstr("cannot write " + path.string() + ": writing: File too large"),
                                      HasSubstr("the file that was there is unchanged")));
    }
  }
  EXPECT_EQ(test::read_file(path), "old");
  EXPECT_EQ(names_in(folder.path()), std::vector<std::string>{"file"});
}

TEST(AtomicFile, AMissingFolderIsNamed) {
  try {
    replace_file("no/such/folder/file", "x");
    FAIL() << "no error";
  } catch (const FileError& error) {
    EXPECT_THAT(error.what(),
                HasSubstr("cannot write no/such/folder/file: creating a temporary file beside it: No such"));
  }
}

TEST(AtomicFile, ALinkStaysAndItsFileIsReplaced) {
  const test::TemporaryFolder folder("link");
  fs::create_directory(folder.path() / "elsewhere");
  replace_file(folder.path() / "elsewhere/file", "old");
  fs::create_symlink("elsewhere/file", folder.path() / "link");
  replace_file(folder.path() / "link", "new");
  EXPECT_TRUE(fs::is_symlink(folder.path() / "link"));
  EXPECT_EQ(test::read_file(folder.path() / "elsewhere/file"), "new");
  EXPECT_EQ(names_in(folder.path() / "elsewhere"), std::vector<std::string>{"file"});
}

TEST(AtomicFile, WhatIsNoFileIsRefused) {
  const auto refusal = [](const fs::path& path) -> std::string {
    try {
      replace_file(path, "x");
    } catch (const FileNameError& error) {
      return error.what();
    }
    return "no error";
  };
  const test::TemporaryFolder folder("no_file");
  EXPECT_THAT(refusal(folder.path() / std::string(256, 'x')), HasSubstr("File name too long"));
  EXPECT_THAT(refusal(folder.path()), HasSubstr("is not a regular file but a folder"));
  EXPECT_THAT(refusal("/dev/null"), HasSubstr("cannot write /dev/null: is not a regular file"));
  fs::create_symlink("nowhere", folder.path() / "link");
  EXPECT_THAT(refusal(folder.path() / "link"), HasSubstr("is a symbolic link to nowhere"));
}

TEST(AtomicFile, TheLongestNameIsWritten) {
  const test::TemporaryFolder folder("longest");
  replace_file(folder.path() / std::string(255, 'x'), "content");
  EXPECT_EQ(names_in(folder.path()), std::vector<std::string>{std::string(255, 'x')});
}

TEST(AtomicFile, CheckingLeavesNothingBehind) {
  const test::TemporaryFolder folder("check");
  check_replaceable(folder.path() / "file");
  EXPECT_TRUE(names_in(folder.path()).empty());
  EXPECT_THROW(check_replaceable(folder.path() / "missing/file"), FileError);
}

}  // namespace
}  // namespace iabn::train
