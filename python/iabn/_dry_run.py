"""One training forward pass that leaves no trace on the model."""

import contextlib
import copy
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from iabn._dataflow import structural_copy


def given(model: nn.Module, inputs: tuple, kwargs: dict) -> tuple[tuple, dict]:
    """Arguments of forward. A tuple alone stands for all of them, as in convert(); so does a dict of their names."""
    if len(inputs) != 1 or kwargs:
        return inputs, kwargs
    if type(inputs[0]) is tuple:
        return inputs[0], {}
    if isinstance(inputs[0], dict):
        with contextlib.suppress(TypeError):  # other keys: the dict is the argument
            inspect.signature(model.forward).bind(**inputs[0])
            return (), inputs[0]
    return inputs, {}


class DryRun:
    """The pass runs on `twin`, a copy of the modules over the same parameters, with copied inputs: running statistics,
    gradients, modes and random state of the model stay as they are. `originals` maps the twin's modules to the model's.
    inputs, kwargs: of forward.
    """

    def __init__(self, model: nn.Module, inputs: tuple, kwargs: dict, autocast: torch.dtype | None):
        if autocast not in (None, torch.bfloat16, torch.float16):
            raise ValueError(f"autocast must be torch.bfloat16, torch.float16 or None, got {autocast!r}")
        self.twin = structural_copy(model, share_buffers=False).train()
        self.originals = dict(zip(self.twin.modules(), model.modules(), strict=True))
        self.inputs, self.kwargs = copy.deepcopy((inputs, kwargs))
        self.autocast = autocast
        self.stack: list[nn.Module] = [self.twin]  # of modules that are running

    def __call__(self, pack: Callable, leave: Callable) -> Any:
        """The output. pack(tensor, module) returns what autograd keeps; leave(module, output) follows every module."""

        def after(module, _inputs, output):
            self.stack.pop()
            leave(module, output)

        for module in self.twin.modules():
            module.register_forward_pre_hook(lambda module, _inputs: self.stack.append(module), prepend=True)
            module.register_forward_hook(after)
        devices = {tensor.device for tensor in self.twin.parameters() if tensor.device.type == "cuda"}
        kind = next(iter(devices), torch.device("cpu")).type
        casting = torch.autocast(kind, self.autocast) if self.autocast else contextlib.nullcontext()
        hooks = torch.autograd.graph.saved_tensors_hooks(lambda t: pack(t, self.stack[-1]), lambda t: t)
        with torch.random.fork_rng(devices=list(devices)), torch.enable_grad(), casting, hooks:
            return self.twin(*self.inputs, **self.kwargs)
