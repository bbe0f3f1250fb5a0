"""In-Place Activated BatchNorm: half of a convolutional network's activation memory, without compiling anything.

    layer = iabn.InPlaceABN(64)                    # BatchNorm2d(64) + LeakyReLU(0.01), in place
    report = iabn.convert(model, example)          # any model, keeping its weights
    print(iabn.memory_report(model, example))      # who keeps how much, and what it could be

`python -m iabn doctor` says what is installed and whether it works.
"""

from importlib.metadata import PackageNotFoundError, version

from iabn import functional
from iabn._sync import use_peer_memory
from iabn.conversion import ConversionReport, convert, to_batchnorm
from iabn.folding import fold
from iabn.memory import MemoryReport, memory_report
from iabn.modules import ABN, InPlaceABN, InPlaceABNSync
from iabn.overwrites import Overwrite, find_overwrites

try:
    __version__ = version("iabn")
except PackageNotFoundError:  # the source folder itself is on the path
    __version__ = "0+unknown"

__all__ = [
    "ABN",
    "ConversionReport",
    "InPlaceABN",
    "InPlaceABNSync",
    "MemoryReport",
    "Overwrite",
    "__version__",
    "convert",
    "find_overwrites",
    "fold",
    "functional",
    "memory_report",
    "to_batchnorm",
    "use_peer_memory",
]
