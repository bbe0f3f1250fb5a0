"""Copies of the package in folders of their own, and fresh interpreters that see nothing else of it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import iabn

COMPAT = Path(__file__).parents[2] / "python" / "compat" / "inplace_abn"


def copy_package(site, libraries=True):
    """iabn in the folder `site`, as this process imports it, with or without its compiled libraries."""
    ignored = ["__pycache__"] if libraries else ["__pycache__", "lib"]
    shutil.copytree(Path(iabn.__file__).parent, site / "iabn", ignore=shutil.ignore_patterns(*ignored))
    return site


def install_metadata(site, name, version):
    """Makes importlib.metadata believe that `name` is installed in the folder `site`."""
    folder = site / f"{name.replace('-', '_')}-{version}.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


def run_python(*arguments, path=None, cwd):
    """A fresh interpreter, with `path` as PYTHONPATH unless None; returns the finished process with its output."""
    environment = dict(os.environ)
    if path is not None:
        environment["PYTHONPATH"] = os.pathsep.join(map(str, path))
    return subprocess.run(
        [sys.executable, *map(str, arguments)], env=environment, cwd=cwd, capture_output=True, text=True, timeout=120
    )
