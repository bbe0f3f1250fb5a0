#!/usr/bin/env bash
# build.sh [PRESET [TARGET...]]: configures and builds; PRESET is one of CMakePresets.json, by default release, or cuda
# where there is a GPU or IABN_CUDA=1.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

preset=${1:-$(default_preset)}
shift || true
say "building preset $preset"
mkdir -p build
cmake --preset "$preset" >"build/$preset.configure.log" 2>&1 || {
  cat "build/$preset.configure.log" >&2
  die "cmake --preset $preset failed: see above"
}
cmake --build --preset "$preset" --parallel "$BUILD_JOBS" ${1:+--target "$@"}
