"""Programs of the C++ build."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def program(name):
    """Path of a program by its name: in the folder IABN_BIN (dev/test.sh sets it), where a missing one fails; without
    IABN_BIN wherever a build left it, and a missing one skips."""
    folder = os.environ.get("IABN_BIN")
    found = [ROOT / folder / name] if folder else sorted(ROOT.glob(f"build/*/bin/{name}"))
    if folder and not found[0].is_file():
        pytest.fail(f"{name} is not in IABN_BIN={folder}")
    if not found:
        pytest.skip(f"{name} is not built: dev/build.sh release {name}")
    return max(found, key=lambda path: path.stat().st_mtime).resolve()
