#!/usr/bin/env bash
# check_sdist.sh: makes dist/iabn-*.tar.gz, unpacks it outside the repository and builds a CPU wheel from it alone.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

rm -f dist/iabn-*.tar.gz
python -m build --sdist --no-isolation --outdir dist >/dev/null
unpacked=$(mktemp -d)
trap 'rm -rf "$unpacked"' EXIT
tar -xzf dist/iabn-*.tar.gz -C "$unpacked" --strip-components=1
(cd "$unpacked" && IABN_CUDA=0 python -m build --wheel --no-isolation --outdir "$unpacked/dist" \
  -C cmake.define.CMAKE_PREFIX_PATH="$CACHE/deb/usr") >"$unpacked/log" 2>&1 || {
  cat "$unpacked/log" >&2
  die "the source distribution does not build: see above"
}
python -m zipfile --extract "$unpacked"/dist/iabn-*.whl "$unpacked/wheel"
python dev/smoke_ops.py "$unpacked/wheel/iabn/lib/libiabn_ops.so"
