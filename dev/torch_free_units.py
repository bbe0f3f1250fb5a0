"""Prints the C++ units of a compilation database that include nothing of LibTorch's C++ API, directly or through this
project's own headers."""

import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HEAVY = re.compile(r"ATen/|c10/|torch/(?!headeronly/|csrc/stable/|csrc/inductor/)")
INCLUDE = re.compile(r'^\s*#\s*include\s*[<"]([^">]+)[">]', re.MULTILINE)
_known: dict[Path, bool] = {}


def is_heavy(path: Path) -> bool:
    """True where `path` or one of our own headers below it includes LibTorch's C++ API."""
    if path in _known:
        return _known[path]
    _known[path] = False
    for name in INCLUDE.findall(path.read_text()):
        own = [p for p in (ROOT / name, ROOT / "tests" / name, path.parent / name) if p.is_file()]
        if HEAVY.match(name) or (own and is_heavy(own[0])):
            _known[path] = True
            break
    return _known[path]


units = {Path(entry["file"]) for entry in json.loads(Path(sys.argv[1]).read_text())}
ours = [u for u in sorted(units) if u.suffix == ".cpp" and any(u.is_relative_to(ROOT / f) for f in ("iabn", "cli"))]
for unit in ours:
    if not is_heavy(unit):
        print(unit.relative_to(ROOT))
