#!/usr/bin/env bash
# Everything a fresh Debian or Ubuntu machine needs to build and test: system libraries, .venv, nvcc where wanted.
# A second run finds its stamps and does nothing. Settings: IABN_CUDA=1|0 (default: 1 where there is a GPU).
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

DEB_PREFIX=$CACHE/deb  # Debian packages unpacked without root; the presets look here
mkdir -p "$CACHE"
exec 9>"$CACHE/setup.lock"
flock 9

check_tools() {
  have python3 || die "python3 is missing: apt-get install python3 python3-venv"
  python3 -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
    die "python3 is older than 3.10, which PyTorch needs: put a newer python3 first in PATH"
  local cxx=${CXX:-c++}
  have "$cxx" || die "no C++ compiler ($cxx): apt-get install g++"
  echo '#include <concepts>' | "$cxx" -std=c++20 -x c++ -fsyntax-only - 2>/dev/null ||
    die "$cxx does not know C++20: apt-get install g++-11 or newer, then CXX=g++-11 make ..."
}

installed() { dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null | grep -qx installed; }

missing_packages() {
  local package
  while read -r package; do
    case $package in '' | '#'*) continue ;; esac
    installed "$package" || echo "$package"
  done <dev/debian-packages.txt
  python3 -c 'import ensurepip, venv' 2>/dev/null || echo python3-venv
}

# Unpacks the packages and whatever they depend on below .cache/deb; CMake's presets look there.
unpack_packages() {
  local stamp=$CACHE/deb.stamp link target downloads=$CACHE/apt/downloads
  [ "$(cat "$stamp" 2>/dev/null)" = "$*" ] && return
  case " $* " in *" python3-venv "*) die "python3 cannot make virtual environments here. As root: apt-get install python3-venv" ;; esac
  have dpkg-deb || die "missing: $*. Install these libraries, or as root: apt-get install $*"
  say "unpacking $* into .cache/deb (not root, so the system stays as it is)"
  mkdir -p "$downloads" "$DEB_PREFIX"
  mapfile -t closure < <(apt_get install --simulate --no-install-recommends "$@" | awk '$1 == "Inst" {print $2}')
  [ "${#closure[@]}" -gt 0 ] || die "could not resolve $*. As root: apt-get install $*"
  (cd "$downloads" && apt_get download "${closure[@]}") || die "could not download $*. As root: apt-get install $*"
  for package in "$downloads"/*.deb; do dpkg-deb -x "$package" "$DEB_PREFIX"; done
  # A -dev package's link to a library that the system already has would dangle.
  while read -r link; do
    target=$(find /usr/lib /lib -name "$(basename "$(readlink "$link")")" -print -quit 2>/dev/null)
    [ -z "$target" ] || ln -sfn "$target" "$link"
  done < <(find "$DEB_PREFIX" -xtype l)
  echo "$*" >"$stamp"
}

setup_packages() {
  have dpkg-query || {
    say "not a Debian system: make sure of the libraries in dev/debian-packages.txt"
    return
  }
  mapfile -t missing < <(missing_packages)
  [ "${#missing[@]}" -eq 0 ] && return
  if is_root; then
    say "installing ${missing[*]}"
    apt_get install --yes --no-install-recommends "${missing[@]}" >"$CACHE/apt-install.log" ||
      die "apt-get install ${missing[*]} failed: see above and .cache/apt-install.log"
  else
    unpack_packages "${missing[@]}"
  fi
}

# install_requirements FILE: into .venv, unless the same file was installed by the same Python before.
install_requirements() {
  local file=$1 stamp key
  stamp=$VENV/.stamp-$(basename "$file" .txt)
  key=$(cat "$file" "$VENV/pyvenv.cfg" | sha256sum)
  [ "$(cat "$stamp" 2>/dev/null)" = "$key" ] && return
  say "installing $file into .venv"
  "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check -r "$file" ||
    die "pip could not install $file: see above (offline? disk full? about 6 GB are needed)"
  echo "$key" >"$stamp"
}

setup_venv() {
  if ! "$VENV/bin/python" -c '' 2>/dev/null; then
    say "creating .venv"
    python3 -m venv --clear "$VENV" || die "python3 -m venv failed. As root: apt-get install python3-venv"
  fi
  install_requirements dev/requirements.txt
}

# The system's nvcc serves where its major version is that of PyTorch's CUDA; otherwise NVIDIA's wheels in .venv.
# The order is that of cmake/cuda_compiler.cmake.
setup_cuda() {
  want_cuda || return 0
  local nvcc major wanted
  wanted=$(sed -n "s/^cuda.*'\([0-9]*\)\..*/\1/p" "$VENV"/lib/python3*/site-packages/torch/version.py)
  for nvcc in "${CUDACXX:-}" "${CUDA_HOME:-}/bin/nvcc" "$(command -v nvcc || true)" /usr/local/cuda/bin/nvcc; do
    [ -x "$nvcc" ] || continue
    major=$("$nvcc" --version | sed -n 's/.*release \([0-9]*\)\..*/\1/p')
    [ "$major" = "$wanted" ] && return
    [ -z "${CUDACXX:-}" ] || die "CUDACXX=$CUDACXX is CUDA $major, PyTorch is CUDA $wanted: unset CUDACXX to use NVIDIA's wheels"
    say "$nvcc is CUDA $major, PyTorch is CUDA $wanted: using NVIDIA's wheels in .venv instead"
    break
  done
  install_requirements dev/requirements-cuda.txt
}

check_tools
setup_packages
setup_venv
setup_cuda
