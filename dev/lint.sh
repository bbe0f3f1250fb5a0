#!/usr/bin/env bash
# Format, lint and house rules, the same here and in CI. Reports every kind of complaint before it fails.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

status=0
check() {
  local title=$1 start=$SECONDS
  shift
  if "$@"; then
    say "$title: ok ($((SECONDS - start)) s)"
  else
    say "$title: FAILED ($((SECONDS - start)) s)"
    status=1
  fi
}

# files PATTERN...: of the repository, tracked or not yet added, that exist.
files() { git ls-files -co --exclude-standard --deduplicate -- "$@" | while read -r f; do [ ! -f "$f" ] || echo "$f"; done; }

mapfile -t cpp < <(files '*.h' '*.cpp' '*.cu' '*.cuh')
mapfile -t cmake < <(files 'CMakeLists.txt' '*/CMakeLists.txt' '*.cmake')
mapfile -t shell < <(files 'dev/*.sh' '.ci/run')

clang_format() { clang-format --dry-run --Werror "${cpp[@]}"; }
cmake_format() { gersemi --check "${cmake[@]}"; }
python_format() { ruff format --check --quiet . || { echo "ruff: run make format"; return 1; }; }
python_lint() { ruff check --quiet .; }
shell_lint() { shellcheck --external-sources --source-path=SCRIPTDIR "${shell[@]}"; }

house_rules() {
  local bad=0 found
  found=$(files | grep -vE '\.(csv|png)$|^LICENSE$' | xargs wc -l | awk '$2 != "total" && $1 > 400 {print $2 ": " $1 " lines, the limit is 400"}')
  [ -z "$found" ] || { echo "$found"; bad=1; }
  # Split, or this file would find itself.
  if files | xargs grep -nIE '\b(TO''DO|FIX''ME|XX''X)\b|/(ho''me|ro''ot)/'; then
    echo "^ open ends go to the issue tracker, and no path of one machine belongs here"
    bad=1
  fi
  if files | xargs grep -nI '[[:space:]]$' -- | grep -vE '\.(csv|md):'; then
    echo "^ trailing blanks"
    bad=1
  fi
  return $bad
}

# Units on LibTorch's C++ headers take half a minute each in clang-tidy: only those without are checked.
tidy() {
  dev/build.sh release help >/dev/null || return 1
  local units
  mapfile -t units < <(.venv/bin/python dev/torch_free_units.py build/release/compile_commands.json)
  [ "${#units[@]}" -gt 0 ] || { echo "clang-tidy: no unit to check in build/release/compile_commands.json"; return 1; }
  printf '%s\n' "${units[@]}" | xargs -P "$BUILD_JOBS" -n 1 clang-tidy --quiet -p build/release 2> >(grep -v 'warnings\? generated\|^Suppressed\|^Use -' >&2)
}

check "clang-format" clang_format
check "gersemi (CMake)" cmake_format
check "ruff format" python_format
check "ruff check" python_lint
check "shellcheck" shell_lint
check "house rules" house_rules
check "README snippets" python dev/check_readme.py
check "clang-tidy" tidy
[ "$status" -eq 0 ] || die "lint failed: make format repairs the format, the rest is listed above"
