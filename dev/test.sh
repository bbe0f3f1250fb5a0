#!/usr/bin/env bash
# test.sh [CTEST ARGUMENTS...]: builds, then runs the Python tests on the installed wheel, and the C++ tests.
# The GPU tests run where the machine has a GPU (preset cuda) and nowhere else; there, a missing device fails them.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

# Threads of OpenMP that wait for each other sleep. Spinning, beside other work, takes a team's time 10 to 300 times.
export OMP_WAIT_POLICY=passive

dev/setup.sh
dev/fetch_fashion_mnist.sh
preset=$(default_preset)
dev/build.sh "$preset"
if [ -d tests/python ]; then
  dev/wheel.sh
  dev/install_wheel.sh
  IABN_BIN=build/$preset/bin python -m pytest -q tests/python
fi
ctest --preset "$preset" "$@"
