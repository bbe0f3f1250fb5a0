#!/usr/bin/env bash
# Installs the release build into a prefix of its own, then builds and runs examples/cpp_minimal against it.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

prefix=$ROOT/build/install
rm -rf "$prefix" build/example
cmake --install build/release --prefix "$prefix" >/dev/null
"$prefix/bin/iabn" --help >/dev/null || die "the installed program does not start"
for file in "$prefix"/lib/*.so "$prefix/bin/iabn"; do
  if readelf -d "$file" | grep -E 'R(UN)?PATH' | grep -F "$ROOT/build"; then die "$file points into the build tree"; fi
done
cmake -G Ninja -S examples/cpp_minimal -B build/example -DCMAKE_BUILD_TYPE=Release -DCMAKE_PREFIX_PATH="$prefix" >/dev/null
cmake --build build/example
build/example/cpp_minimal
