#!/usr/bin/env bash
# without_cuda.sh COMMAND...: runs the command where no CUDA toolkit can be found: no nvcc in PATH, no variable that names
# one and, as root, the toolkit's folders covered by empty ones (in a mount namespace of the command's own).
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

path=
while IFS= read -r -d : folder; do
  [ -x "$folder/nvcc" ] || path=$path:$folder
done <<<"$PATH:"
clean=(env -u CUDA_HOME -u CUDA_PATH -u CUDAToolkit_ROOT -u CUDACXX -u LIBRARY_PATH -u TORCH_CUDA_ARCH_LIST "PATH=${path#:}")
shopt -s nullglob
toolkits=(/usr/local/cuda /usr/local/cuda-*/ /opt/cuda /usr/lib/cuda "$VENV"/lib/python3*/site-packages/nvidia/cu*/{bin,nvvm,include})
# shellcheck disable=SC2016  # expands in the inner shell
hide='while [ "$1" != -- ]; do [ ! -d "$1" ] || mount -t tmpfs none "$1"; shift; done; shift; exec "$@"'
if is_root && unshare --mount true 2>/dev/null; then
  exec unshare --mount "${clean[@]}" bash -c "$hide" -- "${toolkits[@]}" -- "$@"
fi
say "cannot cover the toolkit's folders (not root): hiding it from PATH and the environment only"
exec "${clean[@]}" "$@"
