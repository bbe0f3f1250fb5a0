#!/usr/bin/env bash
# Configures and builds the operators with no CUDA toolkit on the machine, proves that none was used, and runs an
# operator from the result. Run through dev/without_cuda.sh.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

have nvcc && die "nvcc is still found at $(command -v nvcc): run this through dev/without_cuda.sh"
rm -rf build/cpu-only
dev/build.sh cpu-only iabn_ops
if grep -vE '^(//|#)' build/cpu-only/CMakeCache.txt | grep -E 'CMAKE_CUDA_COMPILER|nvcc|CUDAToolkit_[A-Z_]*:'; then
  die "the CPU-only configuration found a CUDA compiler: see the entries above"
fi
if ninja -C build/cpu-only -t deps | grep -E 'cuda_runtime|/cuda_fp16\.h|/nvidia/cu[0-9]+/include/|/cuda[^/]*/include/'; then
  die "the CPU-only build read the CUDA headers above"
fi
python dev/smoke_ops.py build/cpu-only/lib/libiabn_ops.so
