"""The program `iabn`, and comparing what checkpoints hold."""

import subprocess
from collections import OrderedDict

import built
import torch


def convert(*arguments):
    """Runs `iabn convert`; returns the finished process."""
    return subprocess.run(
        [built.program("iabn"), "convert", *map(str, arguments)],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=120,
    )


def converted(*arguments):
    """Its standard output; it must succeed."""
    process = convert(*arguments)
    assert process.returncode == 0, process.stderr
    return process.stdout


def refused(*arguments, code=1):
    """Its error message; it must fail with `code` and without a crash."""
    process = convert(*arguments)
    assert process.returncode == code, (process.returncode, process.stdout, process.stderr)
    assert process.stderr.startswith("iabn: error: ")
    return process.stderr


def assert_same(got, want, where=""):
    """The same types and values down to the last bit; tensors with the same dtype, strides and requires_grad."""
    if isinstance(want, torch.Tensor):
        assert type(got) is type(want), where
        assert (got.dtype, got.shape, got.requires_grad) == (want.dtype, want.shape, want.requires_grad), where
        assert want.numel() == 0 or got.stride() == want.stride(), where
        assert bits(got) == bits(want), where
        return
    assert type(got) is type(want), f"{where}: {type(got)} instead of {type(want)}"
    if isinstance(want, dict):
        assert list(got) == list(want), where
        for key in want:
            assert_same(got[key], want[key], f"{where}.{key}")
        if isinstance(want, OrderedDict):
            assert_same(vars(got), vars(want), f"{where} (attributes)")
    elif isinstance(want, (list, tuple)):
        assert len(got) == len(want), where
        for i, (a, b) in enumerate(zip(got, want, strict=True)):
            assert_same(a, b, f"{where}[{i}]")
    else:
        assert repr(got) == repr(want), where  # NaN is itself here


def bits(tensor):
    return tensor.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes()
