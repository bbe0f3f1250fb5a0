#!/usr/bin/env bash
# install_wheel.sh: installs dist/iabn-*.whl into .venv, as the Python tests want it, and runs an operator from there.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

wheels=(dist/iabn-*.whl)
[ -f "${wheels[0]}" ] || die "no dist/iabn-*.whl: run dev/wheel.sh first"
# The scripts install from requirements files; --no-deps keeps pip from changing what those have pinned.
python -m pip install --quiet --disable-pip-version-check --no-deps --force-reinstall "${wheels[0]}"
# From another folder, so that nothing of the repository is imported in its place.
package=$(cd "$VENV" && python -c 'import iabn, os; print(os.path.dirname(iabn.__file__))')
case $package in "$VENV"/*) ;; *) die "import iabn finds $package, not the wheel in .venv" ;; esac
python dev/smoke_ops.py "$package/lib/libiabn_ops.so"
