#!/usr/bin/env bash
# Composes build/cuda12-toolkit, an nvcc whose results run on the drivers of CUDA 12, and prints the path of that nvcc.
# NVIDIA publishes of CUDA 12 the assembler (ptxas) and the runtime as Python wheels, but no compiler. Therefore nvcc of
# CUDA 13 compiles against the headers of CUDA 12, and its PTX is assembled by ptxas of CUDA 12; what that takes is in
# docs/findings/08-cuda-12-toolkit.md. Changes nothing where all is there.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

toolkit=$ROOT/build/cuda12-toolkit
stamp=$toolkit/stamp

find_nvcc() {
  local nvcc
  for nvcc in "${CUDACXX:-}" "$VENV"/lib/python3*/site-packages/nvidia/cu13/bin/nvcc "${CUDA_HOME:-}/bin/nvcc" \
    "$(command -v nvcc || true)" /usr/local/cuda/bin/nvcc; do
    [ -x "$nvcc" ] && "$nvcc" --version | grep -q 'release 13\.' && readlink -f "$nvcc" && return
  done
  die "no nvcc of CUDA 13: run IABN_CUDA=1 dev/setup.sh, or set CUDACXX"
}

nvcc=$(find_nvcc)
key=$(cat dev/requirements-cuda12.txt dev/cuda12_toolkit.sh <("$nvcc" --version) <(echo "$nvcc") | sha256sum)
if [ "$(cat "$stamp" 2>/dev/null)" != "$key" ]; then
  base=$(dirname "$(dirname "$nvcc")")
  cicc=$(find -L "$base" -name cicc -path '*nvvm*' -print -quit)
  cudart=$(find -L "$base" -name cuda_runtime.h -path '*include/cuda_runtime.h' -print -quit)
  if [ -z "$cicc" ] || [ -z "$cudart" ]; then die "$base holds no cicc or no headers: is this a whole toolkit?"; fi
  rm -rf "$toolkit"
  mkdir -p "$toolkit"/{bin,include,lib}
  python -m pip install --quiet --disable-pip-version-check --no-deps --target "$toolkit/parts" \
    -r dev/requirements-cuda12.txt >&2 || die "pip could not install dev/requirements-cuda12.txt: see above"

  # From CUDA 13: the compiler with the headers that its output includes, and CCCL.
  cp "$nvcc" "$toolkit/bin/nvcc" # nvcc looks for its parts where its own file is
  for tool in cudafe++ fatbinary nvlink bin2c crt; do ln -s "$(dirname "$nvcc")/$tool" "$toolkit/bin/$tool"; done
  ln -s "$(dirname "$cudart")"/{crt,cccl,fatbinary_section.h} "$toolkit/include/"
  # From CUDA 12: the runtime's headers, the runtime itself, the assembler.
  for header in "$toolkit"/parts/nvidia/cuda_runtime/include/*; do
    [ -e "$toolkit/include/$(basename "$header")" ] || ln -s "$header" "$toolkit/include/"
  done
  ln -s "$toolkit"/parts/nvidia/cuda_runtime/lib/*.a "$toolkit/lib/"
  chmod +x "$toolkit/parts/nvidia/cuda_nvcc/bin/ptxas"
  cat >"$toolkit/bin/nvcc.profile" <<END
TOP = \$(_HERE_)/..
NVVMIR_LIBRARY_DIR = $(dirname "$(dirname "$cicc")")/libdevice
PATH += $(dirname "$cicc"):\$(_HERE_):
INCLUDES += "-I\$(TOP)/include" \$(_SPACE_)
SYSTEM_INCLUDES += "-isystem" "\$(TOP)/include/cccl" \$(_SPACE_)
LIBRARIES =+ \$(_SPACE_) "-L\$(TOP)/lib"
CICC_PATH = $(dirname "$cicc")
END
  # PTX 8.8 is that of CUDA 12.9. ptxas refuses whatever it does not know in a file of that version.
  cat >"$toolkit/bin/ptxas" <<'END'
#!/usr/bin/env bash
for file in "$@"; do
  case $file in -*) ;; *.ptx) sed -i 's/^\.version 9\.[0-9]*$/.version 8.8/' "$file" ;; esac
done
exec "$(dirname "${BASH_SOURCE[0]}")/../parts/nvidia/cuda_nvcc/bin/ptxas" "$@"
END
  chmod +x "$toolkit/bin/ptxas"
  echo "$key" >"$stamp"
fi
echo "$toolkit/bin/nvcc"
