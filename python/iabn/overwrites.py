"""Who still needs a tensor that an in-place layer has overwritten."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree
from torch.utils._python_dispatch import TorchDispatchMode

from iabn._dry_run import DryRun, given
from iabn._report import checked
from iabn.modules import InPlaceABN


@dataclass(frozen=True)
class Overwrite:
    """`reader` needs a tensor that `layer` overwrites; names of modules, "" for the model's own code.

    later: it reads the tensor after the layer, and silently gets the layer's output. Else it has kept the tensor for
    backward, which raises PyTorch's "modified by an inplace operation".
    """

    reader: str
    layer: str
    later: bool = False

    def __str__(self) -> str:
        reader = f'"{self.reader}"' if self.reader else "the model's own forward"
        advice = (
            f'give the layer copy_input=True, use ABN there, or leave it alone with convert(..., skip=["{self.layer}"])'
        )
        if self.later:
            return f'{reader} reads the input of "{self.layer}" after it was overwritten, and gets the output: {advice}'
        if self.reader == self.layer:
            return (
                f'"{self.layer}" needs its own output, which something behind it overwrites in place: set '
                "inplace=False there (a = a + b for a += b), use ABN, or leave the layer alone with convert(..., "
                f'skip=["{self.layer}"])'
            )
        return f'{reader} keeps a tensor for backward that "{self.layer}" overwrites: {advice}'


def find_overwrites(
    model: nn.Module, *inputs: Any, autocast: torch.dtype | None = None, **kwargs: Any
) -> list[Overwrite]:
    """Names whoever needs a tensor that an InPlaceABN module overwrites, from two training passes on copies.

    Finds what backward needs, and what is read after the layer, of which no error tells. Cannot see what is read after
    forward (a tensor that it stores in the model, or returns in an object that torch.utils._pytree does not know), nor
    slices of one tensor that overlap in part. inputs, kwargs: of forward; a tuple alone, or a dict of names, stands for
    all of them; copied. autocast: bfloat16 or float16 runs the passes under torch.autocast. The model, its statistics
    and gradients stay as they are. Returns an empty list where all is well.
    """
    model = checked("find_overwrites", model)
    args, kwargs = given(model, inputs, kwargs)
    return kept_for_backward(model, args, kwargs, autocast) + read_later(model, args, kwargs, autocast)


def _overwrites(model: nn.Module, pairs: list[tuple[nn.Module, nn.Module]], later: bool) -> list[Overwrite]:
    names = {module: name for name, module in model.named_modules()}
    return list(dict.fromkeys(Overwrite(names[reader], names[layer], later) for reader, layer in pairs))


def kept_for_backward(model: nn.Module, args: tuple, kwargs: dict, autocast: torch.dtype | None) -> list[Overwrite]:
    """The part of find_overwrites of which PyTorch's error tells in backward."""
    run = DryRun(model, args, kwargs, autocast)
    saved: list[tuple[Tensor, int, nn.Module]] = []
    overwritten: dict[int, nn.Module] = {}

    def pack(tensor, module):
        saved.append((tensor.detach(), tensor._version, module))
        return tensor.detach()

    def leave(module, output):
        if isinstance(module, InPlaceABN) and isinstance(output, Tensor):
            overwritten[output.untyped_storage().data_ptr()] = module

    result = run(pack, leave)
    found = []
    for tensor, version, module in saved:
        layer = overwritten.get(tensor.untyped_storage().data_ptr())
        if tensor._version != version and layer is not None:
            found.append((run.originals[module], run.originals[layer]))
    del result  # until here it kept the storages alive
    return _overwrites(model, found, later=False)


# They look at the shape alone.
_SHAPE_ONLY = ("new_", "empty_like", "zeros_like", "ones_like", "full_like", "rand_like", "randn_like", "randint_like")


class _Reads(TorchDispatchMode):
    """Calls read(tensor) for every tensor whose values an operator takes."""

    @classmethod
    def supports_higher_order_operators(cls):
        """torch.cond and the like, with what they call."""
        return True

    def __init__(self, read: Callable[[Tensor], None]):
        super().__init__()
        self.read = read

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        higher = not isinstance(function, torch._ops.OpOverload)
        if higher or not (function.is_view or function._opname.startswith(_SHAPE_ONLY)):
            for leaf in _pytree.tree_leaves((args, kwargs)):
                if isinstance(leaf, Tensor) and leaf.layout == torch.strided:
                    self.read(leaf)
        return function(*args, **(kwargs or {}))


def read_later(model: nn.Module, args: tuple, kwargs: dict, autocast: torch.dtype | None) -> list[Overwrite]:
    """The part of find_overwrites of which no error tells.

    With every layer on a copy, its input and its output are two tensors, and who reads which can be seen.
    """
    run = DryRun(model, args, kwargs, autocast)
    inputs: dict[int, list[tuple[Tensor, nn.Module]]] = {}  # by storage; alive, so that no other takes their place
    found = []

    def read(tensor):
        for x, layer in inputs.get(tensor.untyped_storage()._cdata, ()):
            if _overlap(x, tensor):
                found.append((run.originals[run.stack[-1]], run.originals[layer]))

    def after(layer, args, kwargs, _output):
        x = args[0] if args else kwargs["x"]
        inputs.setdefault(x.untyped_storage()._cdata, []).append((x.detach(), layer))

    for module in run.twin.modules():
        if isinstance(module, InPlaceABN) and not module.copy_input:
            module.copy_input = True
            module.register_forward_hook(after, with_kwargs=True)
    with _Reads(read):
        result = run(lambda tensor, _: tensor, lambda *_: None)
    for leaf in _pytree.tree_leaves(result):
        if isinstance(leaf, Tensor):
            read(leaf)
    return _overwrites(model, found, later=True)


def _overlap(x: Tensor, other: Tensor) -> bool:
    """Of two tensors over one storage; two slices of it that start at different places may be apart."""
    whole = any(t.numel() * t.element_size() == t.untyped_storage().nbytes() for t in (x, other))
    return whole or x.data_ptr() == other.data_ptr()
