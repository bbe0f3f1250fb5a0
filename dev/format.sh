#!/usr/bin/env bash
# Formats C++, CUDA, CMake and Python in place.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

git ls-files -co --exclude-standard -z -- '*.h' '*.cpp' '*.cu' '*.cuh' | xargs -0 -r clang-format -i
git ls-files -co --exclude-standard -z -- 'CMakeLists.txt' '*/CMakeLists.txt' '*.cmake' | xargs -0 -r gersemi --in-place
ruff format --quiet .
ruff check --quiet --fix .
