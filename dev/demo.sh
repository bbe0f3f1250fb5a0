#!/usr/bin/env bash
# Trains the demo network on Fashion-MNIST with InPlace-ABN, then measures it side by side with standard BatchNorm.
# Needs the build of PRESET (default as build.sh). Results: build/demo/result.json.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

preset=${1:-$(default_preset)}
program=build/$preset/bin/iabn
config=configs/fashion_mnist_demo.json
[ -x "$program" ] || die "$program is missing: run dev/build.sh $preset"
rm -rf build/demo # a clean start every time: figures of an old run must not pass for this one's
mkdir -p build/demo
"$program" train "$config" .cache/data/fashion-mnist --log-dir build/demo/run
say "the same network with standard BatchNorm and with InPlace-ABN"
"$program" bench network "$config" --accuracy-from build/demo/run --result build/demo/result.json
