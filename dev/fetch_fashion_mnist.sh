#!/usr/bin/env bash
# Fashion-MNIST (four gzip idx files, 30 MB) from the Debian package dataset-fashion-mnist, unpacked without root.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

package=dataset-fashion-mnist
target=$CACHE/data/fashion-mnist
files=(train-images-idx3-ubyte.gz train-labels-idx1-ubyte.gz t10k-images-idx3-ubyte.gz t10k-labels-idx1-ubyte.gz)

complete() {
  local file
  for file in "${files[@]}"; do [ -s "$1/$file" ] || return 1; done
}

complete "$target" && exit 0
say "fetching Fashion-MNIST into .cache/data/fashion-mnist"
mkdir -p "$CACHE/data"
unpacked=$(mktemp -d "$CACHE/data/unpack.XXXXXX")
trap 'rm -rf "$unpacked"' EXIT
(cd "$unpacked" && apt_get download "$package") ||
  die "could not download the package $package (offline?). Put ${files[*]} into .cache/data/fashion-mnist by hand"
dpkg-deb -x "$unpacked/$package"_*.deb "$unpacked"
complete "$unpacked/usr/share/datasets/fashion-mnist" || die "$package does not hold ${files[*]}: report this"
rm -rf "$target"
mv "$unpacked/usr/share/datasets/fashion-mnist" "$target"
