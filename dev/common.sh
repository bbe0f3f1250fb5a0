# shellcheck shell=bash
# Sourced by the other scripts: the repository's folders, messages, and what this machine is to build.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
CACHE=$ROOT/.cache
VENV=$ROOT/.venv
export PATH="$VENV/bin:$PATH"
# ccache cannot tell a precompiled header's content otherwise, and would never hit on the units that use one.
export CCACHE_SLOPPINESS=pch_defines,time_macros CCACHE_BASEDIR=$ROOT
# shellcheck disable=SC2034  # used by the scripts that source this file
BUILD_JOBS=${IABN_JOBS:-$(nproc)}
cd "$ROOT"

say() { printf '== %s\n' "$*"; }
die() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}
have() { command -v "$1" >/dev/null 2>&1; }
is_root() { [ "$(id -u)" -eq 0 ]; }

# True where the CUDA operators are to be built: IABN_CUDA=1 or 0 decides, otherwise a working GPU does.
want_cuda() {
  case ${IABN_CUDA:-auto} in
    1 | ON | on) return 0 ;;
    0 | OFF | off) return 1 ;;
    auto) have nvidia-smi && nvidia-smi -L >/dev/null 2>&1 ;;
    *) die "IABN_CUDA must be 1, 0 or auto, got '$IABN_CUDA'" ;;
  esac
}

default_preset() { if want_cuda; then echo cuda; else echo release; fi; }

# Sanitised apt options: without root, apt keeps its lists and cache inside .cache/apt.
apt_options() {
  printf '%s\n' -qq -o APT::Sandbox::User= -o DPkg::Lock::Timeout=600
  is_root || printf '%s\n' -o "Dir::State=$CACHE/apt/state" -o "Dir::Cache=$CACHE/apt/cache" \
    -o Dir::State::status=/var/lib/dpkg/status -o Debug::NoLocking=1
}

# apt_get ARGUMENTS...: apt-get; where it fails, once more after refreshing the package lists.
apt_get() {
  local options
  have apt-get || die "no apt-get here: install by hand the libraries of dev/debian-packages.txt (for $*)"
  mapfile -t options < <(apt_options)
  is_root || mkdir -p "$CACHE/apt/state/lists/partial" "$CACHE/apt/cache/archives/partial"
  DEBIAN_FRONTEND=noninteractive apt-get "${options[@]}" "$@" 2>"$CACHE/apt.log" && return 0
  DEBIAN_FRONTEND=noninteractive apt-get "${options[@]}" update >&2 || return 1
  DEBIAN_FRONTEND=noninteractive apt-get "${options[@]}" "$@"
}
