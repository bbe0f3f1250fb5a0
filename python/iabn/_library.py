"""Finds and loads the compiled operators: lib/libiabn_ops.so, and the CUDA library that fits this PyTorch.

Loading never raises: without the operators evaluation still works, in plain PyTorch, and whatever needs them raises
`problems` with its advice.
"""

from pathlib import Path

import torch

FOLDER = Path(__file__).parent / "lib"
OLDEST_TORCH = (2, 10)

#: One line each, with what to do about it; empty where everything that this PyTorch can use is loaded. On a machine
#: without a GPU a missing CUDA library does no harm.
problems: list[str] = []
#: Files that were loaded.
loaded: list[Path] = []


def _torch_version() -> tuple[int, int]:
    major, minor = torch.__version__.split(".")[:2]
    return int(major), int(minor)


def _cuda_library() -> str | None:
    """Name of the library for this PyTorch's CUDA, or None where it has none."""
    if torch.version.cuda is None:
        return None
    return {"13": "libiabn_ops_cuda.so", "12": "libiabn_ops_cuda12.so"}.get(torch.version.cuda.split(".")[0], "")


def _load(name: str) -> bool:
    path = FOLDER / name
    if not path.is_file():
        problems.append(f"{name} is not part of this installation: install a wheel of iabn that has it")
        return False
    try:
        torch.ops.load_library(str(path))
    except (OSError, RuntimeError) as error:
        problems.append(f"{name} could not be loaded ({error}): reinstall iabn, or use another PyTorch")
        return False
    loaded.append(path)
    return True


def load() -> None:
    """Called once, on import."""
    if _torch_version() < OLDEST_TORCH:
        wanted = ".".join(map(str, OLDEST_TORCH))
        problems.append(f"PyTorch {torch.__version__} is older than {wanted}: install torch>={wanted}")
        return
    if not _load("libiabn_ops.so"):
        return
    name = _cuda_library()
    if name == "":
        problems.append(f"PyTorch's CUDA {torch.version.cuda} is not 12 or 13: CUDA tensors need a newer iabn")
    elif name:
        _load(name)


def supports(device: torch.device) -> bool:
    """Whether there are operators for tensors of `device`."""
    return len(loaded) >= {"cpu": 1, "cuda": 2}.get(device.type, 3)


def reject(name: str) -> None:
    """The loaded libraries lack an operator: they are another version's."""
    problems.append(f"{loaded[0].name} has no operator {name}, it is another version's: reinstall iabn")
    loaded.clear()


def require(device: torch.device) -> None:
    """Raises RuntimeError with the advice where the operators for tensors of `device` are missing."""
    if device.type not in ("cpu", "cuda"):
        raise RuntimeError(f"iabn has no kernels for device {device}: use ABN, which is plain PyTorch, or cpu or cuda")
    if not supports(device):
        raise RuntimeError(
            f"iabn: the compiled operators for {device.type} are not available. {'; '.join(problems)}. "
            "`python -m iabn doctor` tells more; evaluation works without them."
        )
