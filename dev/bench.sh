#!/usr/bin/env bash
# bench.sh [ARGUMENTS...]: builds and times the layer against PyTorch's own; arguments go to `iabn bench layer`.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

dev/setup.sh
preset=$(default_preset)
dev/build.sh "$preset"
"build/$preset/bin/iabn" bench layer "$@"
