"""memory_report(): what a training step's forward pass keeps until backward, and which layer keeps it."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils import _pytree

from iabn._dataflow import trace
from iabn._dry_run import DryRun, given
from iabn._planning import Plan, make_plans
from iabn._report import checked, table
from iabn.modules import ABN, InPlaceABN

MIB = 2**20


@dataclass
class LayerMemory:
    """One module that keeps tensors until backward. All in bytes.

    kept: of tensors that it keeps. A tensor that several modules keep counts in full in each; `shared_with` names them.
    saves: what an InPlaceABN keeps less than BatchNorm + activation would. could_save: what convert() would save here.
    remark: how, or why not.
    """

    name: str
    kind: str
    kept: int
    shared_with: list[str] = field(default_factory=list)
    saves: int = 0
    could_save: int = 0
    remark: str = ""


@dataclass
class MemoryReport:
    """str(report) is a table of the layers in the order of forward, with totals.

    kept: bytes kept until backward, each tensor once. possible: the same after convert(model, relu="leaky_relu").
    parameters, inputs: bytes of parameters and buffers, and of the model's inputs, which exist anyway and are not in
    `kept`. casts: copies of parameters that autocast makes, not in `kept` either.
    """

    layers: list[LayerMemory]
    kept: int
    possible: int
    parameters: int
    inputs: int
    casts: int

    def __str__(self) -> str:
        rows = [
            (
                layer.name or "(the model itself)",
                layer.kind,
                _mib(layer.kept),
                _mib(layer.saves) if layer.saves else "",
                _mib(layer.could_save) if layer.could_save else "",
                "; ".join(filter(None, [_shared(layer.shared_with), layer.remark])),
            )
            for layer in self.layers
        ]
        head = ("layer", "type", "kept MiB", "saves", "could save", "remark")
        lines = table(head, rows, frozenset([2, 3, 4]))
        share = f" ({self.possible / self.kept:.0%})" if self.kept else ""
        lines += [
            f"kept until backward, each tensor once: {_mib(self.kept)} MiB",
            f"with every layer in place that can be:  {_mib(self.possible)} MiB{share}",
            f"besides: parameters and buffers {_mib(self.parameters)} MiB, inputs {_mib(self.inputs)} MiB"
            + (f", autocast's copies of parameters {_mib(self.casts)} MiB" if self.casts else ""),
        ]
        return "\n".join(lines)


def _mib(size: int) -> str:
    return f"{size / MIB:.3f}"


def _shared(names: list[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - 2} more" if len(names) > 2 else ""
    return f"shared with {', '.join(names[:2])}{more}"


class _Ledger:
    """Who keeps which storage. Storages are told apart by weak references, which keep their identity unique."""

    def __init__(self):
        self.references: dict[int, StorageWeakRef] = {}
        self.sizes: dict[int, int] = {}
        self.keepers: dict[int, list[nn.Module]] = {}
        self.results: dict[nn.Module, int] = {}  # the storage of a module's last output
        self.known: dict[int, str] = {}  # parameters, buffers and inputs
        self.casts: dict[int, int] = {}

    def key(self, tensor: Tensor) -> int:
        reference = StorageWeakRef(tensor.untyped_storage())
        self.references.setdefault(reference.cdata, reference)
        return reference.cdata

    def know(self, tensors: Any, what: str) -> int:
        """Sum of bytes, each storage once."""
        total = 0
        for tensor in tensors:
            key = self.key(tensor)
            if key not in self.known:
                self.known[key] = what
                total += tensor.untyped_storage().nbytes()
        return total

    def pack(self, tensor: Tensor, module: nn.Module) -> Tensor:
        if tensor.layout == torch.strided and tensor.device.type != "meta":
            self._keep(tensor, module)
        # Detached: a saved output must not keep its own graph alive.
        return tensor.detach()

    def _keep(self, tensor: Tensor, module: nn.Module) -> None:
        key = self.key(tensor)
        if key in self.known:
            return
        if _is_cast_parameter(tensor):
            self.casts[key] = tensor.untyped_storage().nbytes()
            return
        self.sizes[key] = tensor.untyped_storage().nbytes()
        keepers = self.keepers.setdefault(key, [])
        if module not in keepers:
            keepers.append(module)

    def leave(self, module: nn.Module, output: Any) -> None:
        if isinstance(output, Tensor):
            self.results[module] = self.key(output)


def _is_cast_parameter(tensor: Tensor) -> bool:
    node = tensor.grad_fn
    if node is None or "ToCopy" not in node.name() or not node.next_functions:
        return False
    return isinstance(getattr(node.next_functions[0][0], "variable", None), nn.Parameter)


def memory_report(model: nn.Module, *inputs: Any, autocast: torch.dtype | None = None, **kwargs: Any) -> MemoryReport:
    """Runs one forward pass in training mode and reports what it keeps until backward, by whom.

    inputs, kwargs: of forward; a tuple alone, or a dict of names, stands for all of them; copied. autocast: bfloat16 or
    float16 runs the pass under torch.autocast. Works on CPU and CUDA. The pass runs on a copy of the modules over the
    same parameters: running statistics, gradients, modes and random state stay as they are.

    What convert(model, relu="leaky_relu") would save is worked out from the same data flow as in convert().
    """
    model = checked("memory_report", model)
    ledger = _Ledger()
    run = DryRun(model, *given(model, inputs, kwargs), autocast)
    parameters = ledger.know([*run.twin.parameters(), *run.twin.buffers()], "parameter")
    leaves = _pytree.tree_leaves((run.inputs, run.kwargs))
    images = ledger.know([leaf for leaf in leaves if isinstance(leaf, Tensor)], "input")
    result = run(ledger.pack, ledger.leave)
    report = _report_layers(model, run.originals, ledger, autocast)
    del result  # until here it kept the storages alive
    report.parameters, report.inputs, report.casts = parameters, images, sum(ledger.casts.values())
    return report


def _report_layers(model, originals, ledger: _Ledger, dtype) -> MemoryReport:
    names = {module: name for name, module in model.named_modules()}
    holders = {key: [originals[keeper] for keeper in keepers] for key, keepers in ledger.keepers.items()}
    results = {originals[module]: key for module, key in ledger.results.items()}
    kept: dict[nn.Module, list[int]] = {}
    for key, modules in holders.items():
        for module in modules:
            kept.setdefault(module, []).append(key)
    layers = {}
    for module, keys in kept.items():
        others = {names[other] or "the model itself" for key in keys for other in holders[key] if other is not module}
        layers[module] = LayerMemory(
            names[module], type(module).__name__, sum(ledger.sizes[key] for key in keys), sorted(others)
        )
    savings = _Savings(ledger.sizes, holders, results, kept)
    flow = trace(model)
    plans, _ = make_plans(model, flow, "leaky_relu", 0.01, dtype)
    for name, plan in plans.items():
        module = model.get_submodule(name)
        if module not in layers:
            continue
        if isinstance(plan, Plan):
            layers[module].could_save = savings.take(plan)
            relu = " (with leaky ReLU for ReLU)" if plan.relu else ""
            gain = layers[module].could_save > 0
            layers[module].remark = (
                f"convert() puts it in place{relu}"
                if gain
                else "convert() saves nothing here: no other layer keeps its output"
            )
        else:
            layers[module].remark = plan
    for module, layer in layers.items():
        if isinstance(module, InPlaceABN):
            layer.saves = savings.saved(module)
    total = sum(ledger.sizes.values())
    return MemoryReport(list(layers.values()), total, total - savings.total, 0, 0, 0)


class _Savings:
    """What in-place layers would not keep, over the storages that the pass kept."""

    def __init__(self, sizes: dict[int, int], holders: dict, results: dict, kept: dict):
        self.sizes, self.holders, self.results, self.kept = sizes, holders, results, kept
        self.added: set[int] = set()
        self.total = 0

    def take(self, plan: Plan) -> int:
        """Bytes that one more in-place layer saves."""
        pair = {plan.norm, plan.module}
        mine = self.kept.get(plan.norm, [])
        z = self.results.get(plan.module if plan.module is not None else plan.norm)
        x_size = max((self.sizes[key] for key in mine), default=0)
        gone = {
            key
            for key in (*mine, *self.kept.get(plan.module, []))
            if key != z and self.sizes[key] >= x_size and set(self.holders[key]) <= pair  # x and y
        }
        saved = sum(self.sizes[key] for key in gone)
        if z not in self.sizes and z not in self.added:
            saved -= x_size
            self.added.add(z)
        # BatchNorm keeps mean and rstd, InPlaceABN one of them.
        self.total += saved + sum(self.sizes[key] for key in mine if self.sizes[key] < x_size) // 2
        return saved

    def saved(self, layer: ABN) -> int:
        """Bytes of x, which a standard BatchNorm would keep besides what is kept now."""
        z = self.results.get(layer)
        shared = any(holder is not layer for holder in self.holders.get(z, []))
        return self.sizes[z] if z in self.sizes and shared else 0
