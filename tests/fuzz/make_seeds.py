"""make_seeds.py FOLDER: small checkpoints of every kind, from which the fuzzers start, as FOLDER/FORMAT/NAME."""

import sys
import zipfile
from collections import OrderedDict
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn


def trees():
    base = torch.arange(12.0)
    norm = nn.BatchNorm1d(2)
    yield "tensor", torch.ones(2)
    yield "views", {"a": base, "b": base.view(3, 4).t(), "c": base[3:5], "d": base[1].expand(2, 2), "e": base[12:]}
    yield "norm", {"epoch": 3, "state_dict": norm.state_dict(), "best_prec1": 1.5, "arch": "x"}
    yield "module", {"model": OrderedDict((f"module.{key}", value) for key, value in norm.state_dict().items())}
    yield "types", {str(dtype): torch.zeros(1, dtype=dtype) for dtype in (torch.half, torch.bfloat16, torch.bool)}
    yield "values", [None, True, -1, 300, 2**40, 2**70, 0.5, "text", b"\xff", (1, 2), {3: []}, torch.Size([1])]
    yield "parameters", [nn.Parameter(torch.zeros(1)), torch.device("cuda", 1), torch.float64]


def main(folder):
    kinds = ("pickle", "zip", "legacy", "safetensors")
    for kind in kinds:
        (folder / kind).mkdir(parents=True, exist_ok=True)
    for name, tree in trees():
        for protocol in (2, 4):
            path = folder / "zip" / f"{name}{protocol}"
            torch.save(tree, path, pickle_protocol=protocol)
            with zipfile.ZipFile(path) as archive:
                record = next(entry for entry in archive.namelist() if entry.endswith("data.pkl"))
                (folder / "pickle" / f"{name}{protocol}").write_bytes(archive.read(record))
            torch.save(
                tree, folder / "legacy" / f"{name}{protocol}", _use_new_zipfile_serialization=False,
                pickle_protocol=protocol,
            )  # fmt: skip
    save_file({"a": torch.ones(2), "b": torch.zeros(1, 3)}, folder / "safetensors" / "two", metadata={"format": "pt"})
    save_file(nn.BatchNorm1d(2).state_dict(), folder / "safetensors" / "norm")
    save_file({"e": torch.zeros(0, dtype=torch.bfloat16)}, folder / "safetensors" / "empty")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
