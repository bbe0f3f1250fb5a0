"""Rules over one traced graph: which tensors may be overwritten, and who overwrites them."""

import inspect
import operator

import torch
import torch.nn.functional as F
from torch import fx, nn

from iabn._after_abn import AfterABN
from iabn.modules import InPlaceABN

# Their output is a tensor of its own, and their backward does not need it.
_SAFE_MODULES = (
    *(nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Linear),
    *(nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d),
    *(nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.Upsample),
)
_SAFE_FORWARDS = frozenset(module.forward for module in _SAFE_MODULES)
_SAFE_FUNCTIONS = frozenset(
    [
        *(torch.conv1d, torch.conv2d, torch.conv3d, F.conv1d, F.conv2d, F.conv3d, F.linear, F.interpolate),
        *(torch.conv_transpose1d, torch.conv_transpose2d, torch.conv_transpose3d, torch.cat, torch.concat),
        *(torch.add, torch.sub, torch.mul, operator.add, operator.sub, operator.mul),
        *(F.avg_pool1d, F.avg_pool2d, F.avg_pool3d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d),
    ]
)
_SAFE_METHODS = frozenset(["add", "sub", "mul"])
# Their result may share its memory with their input.
_VIEWS = frozenset(
    [
        "view",
        "view_as",
        "reshape",
        "reshape_as",
        "flatten",
        "unflatten",
        "transpose",
        "permute",
        "t",
        "squeeze",
        "unsqueeze",
        "contiguous",
        "chunk",
        "split",
        "unbind",
        "narrow",
        "select",
        "expand",
        "expand_as",
        "detach",
        "to",
        "type",
        "float",
        "half",
        "bfloat16",
        "double",
        "getitem",
        "dropout",
        "dropout1d",
        "dropout2d",
        "dropout3d",
        "alpha_dropout",
        "movedim",
        "swapaxes",
        "stochastic_depth",  # torchvision's; its input itself where nothing is dropped
    ]
)
_VIEW_MODULES = (nn.Identity, nn.Flatten, nn.Unflatten, nn.modules.dropout._DropoutNd, AfterABN)
_METADATA = frozenset(
    [
        "size",
        "dim",
        "ndimension",
        "numel",
        "stride",
        "is_contiguous",
        "is_floating_point",
        "get_device",
        "storage_offset",
    ]
)
IN_PLACE_OPERATORS = (
    *(operator.iadd, operator.isub, operator.imul, operator.itruediv, operator.ifloordiv, operator.imod, operator.ipow),
    *(operator.iand, operator.ior, operator.ixor, operator.ilshift, operator.irshift),
)
_INPLACE_ADDS = frozenset(["iadd", "isub", "add_", "sub_"])
# Their backward needs none of their inputs.
_KEEP_NOTHING = frozenset(["add", "sub", "cat", "concat"])


def has_plain_forward(module: nn.Module) -> bool:
    """Whether the module computes what PyTorch's own class does: that class, or one that only adds a constructor."""
    kind = type(module)
    if kind.forward not in _SAFE_FORWARDS:
        return False
    base = next(base for base in kind.__mro__ if base in _SAFE_MODULES)
    return getattr(kind, "_conv_forward", None) is getattr(base, "_conv_forward", None)


class Graph:
    """One traced part of a model. `prefix` is its name with a dot, or empty."""

    def __init__(self, part: nn.Module, graph: fx.Graph, prefix: str, hooked: dict[fx.Node, str]):
        self.part = part
        self.nodes = list(graph.nodes)
        self.prefix = prefix
        self.hooked = hooked
        self.inner = False  # not the whole model

    def module(self, node: fx.Node | None) -> nn.Module | None:
        """The module that a node calls."""
        if node is None or node.op != "call_module":
            return None
        return self.part.get_submodule(node.target)

    def function_name(self, node: fx.Node) -> str:
        """The function or method that a node calls, else empty."""
        if node.op == "call_method":
            return node.target
        return getattr(node.target, "__name__", str(node.target)) if node.op == "call_function" else ""

    def describe(self, node: fx.Node) -> str:
        """For reasons."""
        module = self.module(node)
        if module is not None:
            return f'"{self.prefix}{node.target}" ({type(module).__name__})'
        if node.op == "output":
            return "whoever takes the output of the model" if not self.inner else f'the caller of "{self.prefix[:-1]}"'
        name = self.function_name(node)
        names = {
            "add": "an addition",
            "iadd": "an addition in place (+=)",
            "cat": "a concatenation",
            "mul": "a product",
        }
        return names.get(name, f"{name}()") if name else "an attribute of the model"

    def _passes(self, node: fx.Node) -> bool:
        return type(self.module(node)) is nn.Identity

    def _is_metadata(self, node: fx.Node) -> bool:
        if node.op == "call_function" and node.target is getattr:
            return True
        return node.op == "call_method" and node.target in _METADATA

    def readers(self, node: fx.Node) -> list[fx.Node]:
        """Who reads the values, past Identity modules."""
        found = []
        for user in node.users:
            if self._passes(user):
                found += self.readers(user)
            elif not self._is_metadata(user):
                found.append(user)
        return found

    def _hook(self, node: fx.Node) -> str:
        """How something outside of the graph sees the tensor."""
        return self.hooked.get(node, "") or next(
            (found for user in node.users if self._passes(user) and (found := self._hook(user))), ""
        )

    def source(self, node: fx.Node) -> fx.Node | None:
        """What made the input of a node, past Identity modules."""
        made = node.all_input_nodes[0] if node.all_input_nodes else None
        while made is not None and self._passes(made):
            made = made.all_input_nodes[0]
        return made

    def sole_reader(self, node: fx.Node) -> bool:
        """Whether nobody else reads the node's input."""
        made = self.source(node)
        return made is not None and self.readers(made) == [node] and not self._hook(made)

    def single_reader(self, node: fx.Node) -> fx.Node | None:
        """The only reader of the node's output."""
        readers = self.readers(node)
        return readers[0] if len(readers) == 1 and not self._hook(node) and readers[0].op != "output" else None

    def interleaved(self, first: fx.Node, last: fx.Node) -> bool:
        """Whether the module of `first` is called again before `last`."""
        between = self.nodes[self.nodes.index(first) + 1 : self.nodes.index(last)]
        return any(self.module(node) is self.module(first) for node in between)

    def input_problem(self, node: fx.Node) -> str:
        """Why the node's input must not be overwritten; empty: it may."""
        made = self.source(node)
        if made is None:
            return "its input is unknown"
        if made.op == "placeholder":
            name = f'"{self.prefix[:-1]}"' if self.inner else "the model"
            return f"its input is the input of {name}, which others may read"
        hook = self._hook(made)
        if hook:
            return hook
        others = [reader for reader in self.readers(made) if reader is not node]
        if others:
            return f"its input is read by {self.describe(others[0])} as well (skip connection)"
        if self._is_safe(made):
            return ""
        if self.function_name(made) in _INPLACE_ADDS:
            return self.input_problem(made)  # the same tensor
        return f"its input comes from {self.describe(made)}, which may need it in backward or share it"

    def copy_helps(self, node: fx.Node) -> str:
        """Who else reads the node's input without keeping it for backward; empty: nobody, or others keep it.

        Then a layer that works on a copy still frees its input.
        """
        made = self.source(node)
        if made is None or self._hook(made):
            return ""
        maker = made
        while maker is not None and self.function_name(maker) in _INPLACE_ADDS:
            maker = self.source(maker)  # of the same tensor
        if maker is None or not self._is_safe(maker):
            return ""
        others = [reader for reader in self.readers(made) if reader is not node]
        return self.describe(others[0]) if others and all(self._only_reads(other, made) for other in others) else ""

    def _only_reads(self, reader: fx.Node, made: fx.Node) -> bool:
        """Whether the reader neither keeps the tensor for backward nor overwrites it."""
        name = self.function_name(reader)
        return name in _KEEP_NOTHING or (name in _INPLACE_ADDS and not self._writes(reader, made))

    def _is_safe(self, node: fx.Node) -> bool:
        module = self.module(node)
        if module is not None:
            return has_plain_forward(module) and not getattr(module, "return_indices", False)
        if node.op == "call_method":
            return node.target in _SAFE_METHODS
        return node.op == "call_function" and node.target in _SAFE_FUNCTIONS

    def overwriter(self, node: fx.Node) -> str:
        """What overwrites the node's output later; empty: nobody that can be seen."""
        for user in node.users:
            if self._writes(user, node):
                module = self.module(user)
                if module is not None and hasattr(module, "inplace"):
                    return f"{self.describe(user)} works in place on its output: set inplace=False there"
                return f"{self.describe(user)} overwrites its output"
            if self._shares(user) and (found := self.overwriter(user)):
                return found
        return ""

    def _shares(self, node: fx.Node) -> bool:
        module = self.module(node)
        if module is not None:
            return isinstance(module, _VIEW_MODULES)
        return self.function_name(node) in _VIEWS

    def _writes(self, user: fx.Node, node: fx.Node) -> bool:
        if user.kwargs.get("out") is node:
            return True
        if not user.args or user.args[0] is not node:
            return False
        module = self.module(user)
        if module is not None:
            return getattr(module, "inplace", False) is True or isinstance(module, InPlaceABN)
        name = self.function_name(user)
        if user.op == "call_method":
            return name.startswith("__i") or (name.endswith("_") and not name.startswith("_"))
        if user.op != "call_function":
            return False
        if user.target is operator.setitem or user.target in IN_PLACE_OPERATORS:
            return True
        return (name.endswith("_") and not name.startswith("_")) or _is_inplace_call(user)


def _is_inplace_call(node: fx.Node) -> bool:
    """F.relu(x, inplace=True) and the like, by keyword or by position."""
    if "inplace" in node.kwargs:
        return node.kwargs["inplace"] is True
    try:
        return inspect.signature(node.target).bind(*node.args, **node.kwargs).arguments.get("inplace") is True
    except (TypeError, ValueError):
        return False
