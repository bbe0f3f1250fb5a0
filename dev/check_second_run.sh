#!/usr/bin/env bash
# A second set-up and build must find everything done: no download, no compilation, under 20 seconds.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

start=$SECONDS
setup=$(dev/setup.sh 2>&1 && dev/fetch_fashion_mnist.sh 2>&1)
[ -z "$setup" ] || die "a second set-up did work again: $setup"
build=$(dev/build.sh release 2>&1)
grep -q 'no work to do' <<<"$build" || die "a second build did work again: $build"
[ $((SECONDS - start)) -lt 20 ] || die "a second run took $((SECONDS - start)) s"
