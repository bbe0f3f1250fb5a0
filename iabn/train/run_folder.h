#pragma once

// The folder of a run.

#include <filesystem>
#include <optional>

namespace iabn::train {

/// Makes it where it is missing and returns it. Throws FileError.
std::filesystem::path made_folder(const std::filesystem::path& folder);

/// `resume` where it is set; with `automatic`, `checkpoint` where it exists.
std::optional<std::filesystem::path> snapshot_to_resume(const std::filesystem::path& checkpoint,
                                                        const std::optional<std::filesystem::path>& resume,
                                                        bool automatic);

/// Throws SnapshotError where snapshot_to_resume() finds none: an evaluation would be that of random weights.
void check_evaluable(const std::filesystem::path& checkpoint, const std::optional<std::filesystem::path>& resume,
                     bool automatic);

/// Throws SnapshotError where the snapshot `checkpoint` is there and is not of the run that is continued from `resume`.
void check_run_folder(const std::filesystem::path& checkpoint, const std::optional<std::filesystem::path>& resume);

}  // namespace iabn::train
