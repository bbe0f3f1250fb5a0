"""Reports of convert(), to_batchnorm() and fold(), and the comparison of a model's outputs before and after."""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree


@dataclass(frozen=True)
class Row:
    """One layer. `after` is empty where it was left alone, and `reason` says why; else `reason` is a remark."""

    name: str
    before: str
    after: str
    reason: str = ""


@dataclass
class ConversionReport:
    """What was done to each layer. str(report) is a table.

    largest_difference: of the outputs for the example, in evaluation mode, absolute; None without an example.
    largest_output: the largest absolute value among those outputs before.
    exact: False where the model computes another function now (relu="leaky_relu").
    nothing: why there are no rows.
    unchecked: why the search for tensors that are needed after a layer has overwritten them was not made, or not whole.
    """

    title: str
    rows: list[Row] = field(default_factory=list)
    largest_difference: float | None = None
    largest_output: float | None = None
    exact: bool = True
    nothing: str = ""
    unchecked: str = ""

    @property
    def converted(self) -> list[Row]:
        """Rows of layers that were changed."""
        return [row for row in self.rows if row.after]

    @property
    def left(self) -> list[Row]:
        """Rows of layers that were left alone."""
        return [row for row in self.rows if not row.after]

    @property
    def relative_difference(self) -> float | None:
        """largest_difference over largest_output."""
        if self.largest_difference is None:
            return None
        return self.largest_difference / self.largest_output if self.largest_output else self.largest_difference

    def __str__(self) -> str:
        changed = f"{len(self.converted)} of {len(self.rows)} layers changed"
        lines = [f"{self.title}: {self.nothing if self.nothing and not self.rows else changed}"]
        cells = [(row.name, row.before, row.after or "left alone", row.reason) for row in self.rows]
        lines += table(("layer", "before", "after", "remark"), cells) if cells else []
        if self.largest_difference is not None:
            kind = "" if self.exact else " (not an exact conversion)"
            lines.append(
                f"largest output difference: {self.largest_difference:.3g}, relative to the largest output "
                f"{self.relative_difference:.2g}{kind}"
            )
        elif not self.exact:
            lines.append("not an exact conversion: ReLU became leaky ReLU")
        if self.unchecked:
            lines.append(f"a training pass could not be searched for overwritten tensors: {self.unchecked}")
        return "\n".join(lines)


def table(head: tuple[str, ...], rows: list[tuple[str, ...]], right: frozenset[int] = frozenset()) -> list[str]:
    """Lines with columns aligned; columns in `right` to the right, the last one ragged."""
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    rule = tuple("-" * (min(width, 40) if i == len(head) - 1 else width) for i, width in enumerate(widths))
    pad = lambda i, cell: cell.rjust(widths[i]) if i in right else cell.ljust(widths[i])  # noqa: E731
    return ["  ".join(pad(i, cell) for i, cell in enumerate(row)).rstrip() for row in (head, rule, *rows)]


class Undo:
    """Replacements of modules that are taken back where the block of `with Undo() as undo:` raises."""

    def __init__(self):
        self._steps: list[Callable[[], None]] = []

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if kind is not None:
            self.take_back()

    def add(self, step: Callable[[], None]) -> None:
        """`step` takes one change back."""
        self._steps.append(step)

    def replace(self, model: nn.Module, old: nn.Module, new: nn.Module) -> None:
        """Everywhere in the model where `old` is registered."""
        for parent in list(model.modules()):
            for name, child in parent._modules.items():
                if child is old:
                    parent._modules[name] = new
                    self.add(lambda parent=parent, name=name: parent._modules.__setitem__(name, old))

    def take_back(self) -> None:
        """Everything, last first."""
        while self._steps:
            self._steps.pop()()


def checked(what: str, model: Any) -> nn.Module:
    """The model, or the one inside torch.compile(model). Raises TypeError for what is no module."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"{what}: model must be a torch.nn.Module, got {type(model).__name__}")
    return getattr(model, "_orig_mod", model)


def arguments(example: Any) -> tuple[tuple, dict]:
    """Positional and keyword arguments of forward: example is a tuple, a dict or the one argument."""
    if isinstance(example, dict):
        return (), example
    return (tuple(example) if isinstance(example, (tuple, list)) else (example,)), {}


def outputs(model: nn.Module, example: Any) -> list[Tensor]:
    """Floating-point outputs in evaluation mode for a copy of the example; modes and random state are kept."""
    args, kwargs = copy.deepcopy(arguments(example))
    modes = [(module, module.training) for module in model.modules()]
    devices = {tensor.device for tensor in model.parameters() if tensor.device.type == "cuda"}
    try:
        for module, _ in modes:
            module.training = False
        with torch.no_grad(), torch.random.fork_rng(devices=list(devices)):
            torch.manual_seed(0)
            result = model(*args, **kwargs)
    finally:
        for module, training in modes:
            module.training = training
    leaves = _pytree.tree_leaves(result)
    found = [leaf.detach().clone() for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point()]
    if not found:
        raise ValueError("example: the model's output holds no floating-point tensor to compare")
    return found


def input_dimensions(model: nn.Module, layers: list[nn.Module], example: Any) -> dict[nn.Module, int]:
    """Number of dimensions of each layer's input, from one run in evaluation mode."""
    found: dict[nn.Module, int] = {}
    hooks = [
        layer.register_forward_pre_hook(lambda module, inputs: found.__setitem__(module, inputs[0].dim()))
        for layer in layers
    ]
    try:
        outputs(model, example)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def compare(report: ConversionReport, before: list[Tensor], after: list[Tensor]) -> None:
    """Writes the largest difference into the report."""
    report.largest_difference = max(_difference(a, b) for a, b in zip(before, after, strict=True))
    report.largest_output = max(float(a.abs().max()) if a.numel() else 0.0 for a in before)


def _difference(a: Tensor, b: Tensor) -> float:
    if not a.numel() or torch.equal(a, b):
        return 0.0
    wide = (a.double() - b.double()).abs()
    same = (a == b) | (a.isnan() & b.isnan())
    return float(wide.masked_fill(same, 0).max())


def check(
    what: str, before: list[Tensor], after: list[Tensor], layers: int, tolerance: float | None, model: nn.Module
) -> None:
    """Raises RuntimeError where the outputs differ by more than rounding in `layers` layers explains."""
    eps = max(torch.finfo(t.dtype).eps for t in (*before, *model.parameters()) if t.is_floating_point())
    # Each layer rounds its output once more or once less than before; errors of many layers add up like a random walk.
    limit = min(32 * math.sqrt(layers + 1) * eps, 0.25) if tolerance is None else tolerance
    for a, b in zip(before, after, strict=True):
        difference = _difference(a, b)
        scale = float(a[a.isfinite()].abs().max()) if a.isfinite().any() else 1.0
        if not difference <= limit * scale:
            raise RuntimeError(
                f"{what}: the outputs for the example differ by {difference:.3g}, more than {limit:.2g} times the "
                f"largest output {scale:.3g}: the model was restored. If rounding explains it, pass tolerance="
            )
