#include "iabn/train/run_folder.h"

#include "iabn/train/atomic_file.h"
#include "iabn/train/snapshot.h"

namespace iabn::train {

namespace fs = std::filesystem;

fs::path made_folder(const fs::path& folder) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) throw FileError("cannot make the folder " + folder.string() + ": " + error.message());
  return folder;
}

std::optional<fs::path> snapshot_to_resume(const fs::path& checkpoint, const std::optional<fs::path>& resume,
                                           bool automatic) {
  if (resume) return resume;
  return automatic && fs::exists(checkpoint) ? std::optional(checkpoint) : std::nullopt;
}

void check_evaluable(const fs::path& checkpoint, const std::optional<fs::path>& resume, bool automatic) {
  if (snapshot_to_resume(checkpoint, resume, automatic)) return;
  throw SnapshotError("--evaluate needs --resume SNAPSHOT: there is nothing to evaluate yet" +
                      (automatic ? ", no " + checkpoint.string() : ""));
}

void check_run_folder(const fs::path& checkpoint, const std::optional<fs::path>& resume) {
  if (!fs::exists(checkpoint)) return;
  if (!resume) {
    throw SnapshotError(checkpoint.string() + " exists: add --resume " + checkpoint.string() +
                        " to continue that run, or choose another --log-dir");
  }
  const fs::path folder = folder_of(*resume);
  if (fs::equivalent(folder, folder_of(checkpoint))) return;
  throw SnapshotError(checkpoint.string() + " exists and may belong to another run than " + resume->string() +
                      ": continue that one with --log-dir " + folder.string() + ", or choose a new --log-dir");
}

}  // namespace iabn::train
