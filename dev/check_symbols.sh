#!/usr/bin/env bash
# check_symbols.sh LIBRARY...: fails where a library on the stable ABI exports or imports a symbol of ATen or c10, which
# would tie it to one PyTorch version.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

[ "$#" -gt 0 ] || die "usage: dev/check_symbols.sh LIBRARY..."
for library in "$@"; do
  [ -f "$library" ] || die "$library is missing: build it first"
  table=$(nm --dynamic --demangle "$library")
  grep -q ' U aoti_torch_' <<<"$table" || die "$library calls nothing of the stable ABI: is this the right file?"
  if grep -E '(^|[^[:alnum:]_])(at|c10)::' <<<"$table"; then
    die "$library has the dynamic symbols above: use torch/csrc/stable only, with hidden visibility"
  fi
  say "$library: no at:: or c10:: among $(wc -l <<<"$table") dynamic symbols"
done
