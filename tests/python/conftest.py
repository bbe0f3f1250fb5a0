"""Tests of the installed package: build and install the wheel first (make wheel)."""

import os
from pathlib import Path

import built
import pytest
import torch

# A cached graph from before a change would hide it.
os.environ.setdefault("TORCHINDUCTOR_FORCE_DISABLE_CACHES", "1")

DEVICES = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])


@pytest.fixture(params=DEVICES)
def device(request):
    return torch.device(request.param)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)
    torch.compiler.reset()


def relative_error(got, want):
    """Norm of the difference over the norm of `want`."""
    return ((got.double() - want.double()).norm() / want.double().norm().clamp_min(1e-30)).item()


@pytest.fixture(scope="session")
def built_program():
    return built.program


@pytest.fixture(scope="session")
def shared_file():
    """Path of a file that is not in the repository, from ../shared/data; skips without it, or fails with
    IABN_REQUIRE_SHARED=1."""

    def find(name):
        path = Path(__file__).resolve().parents[3] / "shared" / "data" / name
        if not path.is_file():
            text = f"{name} is not in {path.parent}"
            pytest.fail(text) if os.environ.get("IABN_REQUIRE_SHARED") == "1" else pytest.skip(text)
        return path

    return find
