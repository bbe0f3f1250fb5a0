"""Who reads and who overwrites the tensors around each normalisation layer, from symbolic traces of forward.

The model itself is never run or changed: a copy that shares its parameters is traced, in training and in evaluation
mode. What cannot be traced as a whole is traced part by part.
"""

import copy
import inspect
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from iabn import _dataflow_rules as rules
from iabn._after_abn import AfterABN, HandOver
from iabn.modules import ABN


@dataclass
class Call:
    """One call of a normalisation layer in forward. Reasons are empty where nothing stands against it."""

    input_problem: str  # why its input must not be overwritten
    output_problem: str  # what overwrites its output
    producer: nn.Module | None  # the module that made its input, and nothing else reads it
    activation: nn.Module | None = None  # the module that alone reads its output
    activated_problem: str = ""  # what overwrites that module's output
    interleaved: bool = False  # the layer is called again before that module is
    function: str = ""  # the function that alone reads its output
    copied_for: str = ""  # who else needs its input, where working on a copy still frees it


@dataclass
class Flow:
    """Calls of every normalisation layer, by the model's own module objects."""

    calls: dict[nn.Module, list[Call]] = field(default_factory=dict)
    problems: dict[nn.Module, str] = field(default_factory=dict)  # layers inside what could not be traced
    module_calls: dict[nn.Module, int] = field(default_factory=dict)  # both modes together
    partial: dict[nn.Module, str] = field(default_factory=dict)  # traced part by part: name of the part


def structural_copy(model: nn.Module, share_buffers: bool = True) -> nn.Module:
    """The same modules over the same parameters (and buffers)."""
    shared = [*model.parameters(), *(model.buffers() if share_buffers else ())]
    return copy.deepcopy(model, {id(tensor): tensor for tensor in shared})


def is_norm(module: nn.Module) -> bool:
    """BatchNorm of any kind, ABN, InPlaceABN."""
    return isinstance(module, (_BatchNorm, ABN))


class _Proxy(fx.Proxy):
    """fx takes `a += b` for `a = a + b`; here it stays in place."""


def _record_in_place(operation):
    def record(self, other):
        return self.tracer.create_proxy("call_function", operation, (self, other), {})

    return record


for _operation in rules.IN_PLACE_OPERATORS:
    setattr(_Proxy, f"__{_operation.__name__}__", _record_in_place(_operation))


_STATE = frozenset(vars(nn.Module()))


def _parts(value: Any) -> Iterator[Any]:
    """What containers hold, of any depth; of a cycle or a huge table the first 10,000 parts."""
    waiting, left = [value], 10_000
    while waiting and left > 0:
        item, left = waiting.pop(), left - 1
        if isinstance(item, dict):
            waiting += islice(dict.values(item), left)
        elif isinstance(item, list):
            waiting += islice(list.__iter__(item), left)
        elif isinstance(item, tuple):
            waiting += islice(tuple.__iter__(item), left)
        else:
            yield item


class _Tracer(fx.Tracer):
    def __init__(self, prefix: str):
        super().__init__()
        self.prefix = prefix
        self.hooked: dict[fx.Node, str] = {}  # seen from outside of the graph; how

    def proxy(self, node):
        return _Proxy(node, self)

    def is_leaf_module(self, m, module_qualified_name):
        known = is_norm(m) or isinstance(m, AfterABN) or rules.has_plain_forward(m)
        return known or super().is_leaf_module(m, module_qualified_name)

    def call_module(self, m, forward, args, kwargs):
        result = super().call_module(m, forward, args, kwargs)
        if m._forward_hooks or m._forward_pre_hooks:
            name = self.path_of_module(m)
            # A leaf reads its input anyway; its hooks add nothing to that.
            seen = [result] if m._forward_hooks else []
            if not self.is_leaf_module(m, name):
                seen += [*args, *kwargs.values()]
            if isinstance(m, ABN) and all(isinstance(hook, HandOver) for hook in m._forward_hooks.values()):
                seen = []
            self._note(seen, f'a forward hook on "{self.prefix}{name}" sees its input')
        return result

    def _note(self, tensors, how):
        for item in _parts(tensors):
            if isinstance(item, fx.Proxy) and item.tracer is self:
                self.hooked[item.node] = how

    def note_stored(self, part: nn.Module):
        """After a trace: tensors that forward has left in attributes of modules, also in lists and dicts."""
        for name, module in part.named_modules():
            for key, value in vars(module).items():
                if key not in _STATE:
                    place = ".".join(filter(None, [self.prefix[:-1], name, key]))
                    self._note(value, f'forward stores its input as "{place}", where others may read it')


def _defaults(module: nn.Module) -> dict:
    """Arguments of forward that have a default keep it."""
    parameters = inspect.signature(module.forward).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}


def _trace(part: nn.Module, prefix: str) -> rules.Graph:
    tracer = _Tracer(prefix)
    graph = tracer.trace(part, _defaults(part) or None)
    tracer.note_stored(part)
    return rules.Graph(part, graph, prefix, tracer.hooked)


def _trace_parts(part: nn.Module, prefix: str, graphs: list, problems: dict, inner: bool = False) -> None:
    try:
        graph = _trace(part, prefix)
    except Exception as error:
        where = f'forward of "{prefix[:-1]}"' if prefix else "forward of the model"
        lines = str(error).strip().splitlines() or [type(error).__name__]
        reason = f"{where} could not be traced: {lines[0]}"
        for name, child in part.named_children():
            if is_norm(child):
                problems[child] = reason
            elif any(map(is_norm, child.modules())):
                _trace_parts(child, f"{prefix}{name}.", graphs, problems, True)
        return
    graph.inner = inner
    graphs.append(graph)


def trace(model: nn.Module) -> Flow:
    """The data flow around every normalisation layer of the model. Never raises."""
    flow = Flow()
    try:
        traced = structural_copy(model)
    except Exception as error:
        reason = f"the model could not be copied for tracing: {error}"
        flow.problems = {module: reason for module in model.modules() if is_norm(module)}
        return flow
    original = dict(zip(traced.modules(), model.modules(), strict=True))
    for training in (True, False):
        for module in traced.modules():
            module.training = training
        graphs: list[rules.Graph] = []
        problems: dict[nn.Module, str] = {}
        _trace_parts(traced, "", graphs, problems)
        flow.problems.update((original[module], reason) for module, reason in problems.items())
        for graph in graphs:
            _add_calls(flow, graph, original)
    return flow


def _add_calls(flow: Flow, graph: rules.Graph, original: dict) -> None:
    for node in graph.nodes:
        module = graph.module(node)
        if module is None:
            continue
        flow.module_calls[original[module]] = flow.module_calls.get(original[module], 0) + 1
        if graph.inner:
            flow.partial[original[module]] = graph.prefix
        if not is_norm(module):
            continue
        producer = graph.module(graph.source(node))
        call = Call(
            input_problem=graph.input_problem(node),
            output_problem=graph.overwriter(node),
            copied_for=graph.copy_helps(node),
            producer=original[producer] if producer is not None and graph.sole_reader(node) else None,
        )
        reader = graph.single_reader(node)
        activation = graph.module(reader)
        if activation is not None:
            call.activation = original[activation]
            call.activated_problem = graph.overwriter(reader)
            call.interleaved = graph.interleaved(node, reader)
        elif reader is not None:
            call.function = graph.function_name(reader)
        flow.calls.setdefault(original[module], []).append(call)
