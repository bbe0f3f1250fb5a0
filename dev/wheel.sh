#!/usr/bin/env bash
# wheel.sh [--release]: builds dist/iabn-*.whl and audits it. CPU only, or where CUDA is wanted (a GPU, or IABN_CUDA=1)
# with the CUDA operators for TORCH_CUDA_ARCH_LIST, by default that of the GPU here, without one 9.0.
# --release: for every architecture, and a second time for CUDA 12; needs nvcc, never a device. TORCH_CUDA_ARCH_LIST in
# the environment shortens that too, for a trial. A second run compiles only what changed.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

local_architectures() {
  local found
  found=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | sort -u | paste -sd ';') || true
  echo "${found:-9.0}"
}

cuda=0 release=0
case ${1:-} in
  --release) cuda=1 release=1 ;;
  '') ! want_cuda || cuda=1 ;;
  *) die "usage: dev/wheel.sh [--release]" ;;
esac
IABN_CUDA=$cuda dev/setup.sh

flavour=cpu
if [ "$cuda" = 1 ]; then flavour=cuda; fi
if [ "$release" = 1 ]; then flavour=release; fi
folder=$ROOT/build/wheel-$flavour
# What is set here wins over the build folder's cache, so that a wheel is always what its name says.
settings=(CMAKE_PREFIX_PATH="$CACHE/deb/usr" IABN_CUDA="$cuda")
case $flavour in
  cuda) settings+=(TORCH_CUDA_ARCH_LIST="${TORCH_CUDA_ARCH_LIST:-$(local_architectures)}") ;;
  release) settings+=(TORCH_CUDA_ARCH_LIST="${TORCH_CUDA_ARCH_LIST:-7.5;8.0;8.6;8.9;9.0;10.0;12.0+PTX}") ;;
esac

# CUDA 12's library is another build with another nvcc; the wheel takes the result.
if [ "$release" = 1 ]; then
  nvcc=$(dev/cuda12_toolkit.sh)
  cmake -G Ninja -S . -B "$folder-cuda12" -DCMAKE_BUILD_TYPE=Release -DIABN_WHEEL=ON -DCMAKE_CUDA_COMPILER="$nvcc" \
    "${settings[@]/#/-D}" >"$folder-cuda12.log" || die "CMake failed for CUDA 12: see build/wheel-release-cuda12.log"
  say "operators for CUDA 12"
  cmake --build "$folder-cuda12" --parallel "$BUILD_JOBS" --target iabn_ops_cuda
  settings+=(IABN_CUDA12_LIBRARY="$folder-cuda12/lib/libiabn_ops_cuda12.so")
fi

say "wheel ($flavour)"
mkdir -p dist
rm -rf "$folder-dist"
CMAKE_BUILD_PARALLEL_LEVEL=$BUILD_JOBS python -m build --wheel --no-isolation --outdir "$folder-dist" \
  -C build-dir="$folder" "${settings[@]/#/-Ccmake.define.}"
# The audit makes sure that this tag is true.
if [ "$(uname -m)" = x86_64 ]; then
  python -m wheel tags --remove --platform-tag manylinux_2_28_x86_64 "$folder-dist"/iabn-*.whl >/dev/null
fi
rm -f dist/iabn-*.whl
mv "$folder-dist"/iabn-*.whl dist/
complete=()
if [ "$release" = 1 ] && [ -z "${TORCH_CUDA_ARCH_LIST:-}" ]; then complete=(--release); fi
python dev/audit_wheel.py "${complete[@]}" dist/iabn-*.whl
