"""Fails unless README.md shows examples/cpp_minimal/main.cpp word for word in a ```cpp block, so that the snippet that
people copy is one that CI builds and runs."""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "examples/cpp_minimal/main.cpp"
README = ROOT / "README.md"

blocks = re.findall(r"^```cpp\n(.*?)^```$", README.read_text() if README.exists() else "", re.MULTILINE | re.DOTALL)
if EXAMPLE.read_text() not in blocks:
    sys.exit(f"README.md: none of its {len(blocks)} ```cpp blocks equals {EXAMPLE.relative_to(ROOT)}: paste it there")
