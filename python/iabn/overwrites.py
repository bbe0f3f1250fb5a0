"""Who still needs a tensor that an in-place layer has overwritten."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from iabn._dry_run import DryRun
from iabn.modules import InPlaceABN


@dataclass(frozen=True)
class Overwrite:
    """`reader` keeps a tensor for backward that `layer` overwrites; names of modules, "" for the model's own code."""

    reader: str
    layer: str

    def __str__(self) -> str:
        if self.reader == self.layer:
            return f'"{self.layer}" needs its own output, which something behind it overwrites in place'
        reader = f'"{self.reader}"' if self.reader else "the model's own forward"
        return (
            f'{reader} keeps a tensor for backward that "{self.layer}" overwrites: give it copy_input=True, or leave '
            f'it alone with convert(..., skip=["{self.layer}"])'
        )


def find_overwrites(
    model: nn.Module, *inputs: Any, autocast: torch.dtype | None = None, **kwargs: Any
) -> list[Overwrite]:
    """Runs one training forward pass on a copy and names what PyTorch's "modified by an inplace operation" does not.

    inputs, kwargs: of forward; copied. autocast: bfloat16 or float16 runs the pass under torch.autocast. The model, its
    statistics and gradients stay as they are. Returns an empty list where every tensor that backward needs is intact.
    """
    run = DryRun(model, inputs, kwargs, autocast)
    names = {module: name for name, module in model.named_modules()}
    saved: list[tuple[torch.Tensor, int, nn.Module]] = []
    overwritten: dict[int, nn.Module] = {}

    def pack(tensor, module):
        saved.append((tensor.detach(), tensor._version, module))
        return tensor.detach()

    def leave(module, output):
        if isinstance(module, InPlaceABN) and isinstance(output, torch.Tensor):
            overwritten[output.untyped_storage().data_ptr()] = module

    result = run(pack, leave)
    found = []
    for tensor, version, module in saved:
        layer = overwritten.get(tensor.untyped_storage().data_ptr())
        if tensor._version != version and layer is not None:
            found.append(Overwrite(names[run.originals[module]], names[run.originals[layer]]))
    del result  # until here it kept the storages alive
    return list(dict.fromkeys(found))
