"""What convert() leaves where an activation stood that the layer before it now applies."""

import torch
from torch import fx, nn

from iabn.modules import in_graph


class AfterABN(nn.Module):
    """Stands where an activation stood that the layer before it applies now: returns its input.

    shared: the activation is called for other tensors too, and then still activates those that do not come straight
    from one of the layers that took it over (those bear the mark of HandOver).
    """

    def __init__(self, original: nn.Module, shared: bool):
        super().__init__()
        self._original = (original,)  # in a tuple: not a submodule
        self.shared = shared
        self.layers = 0
        self.announced = {}  # by layer: its output in a graph that torch.compile traces

    def __getstate__(self):
        """Without the tensors of a pass."""
        return {**self.__dict__, "announced": {}}

    @property
    def original(self) -> nn.Module:
        """The activation that stood here."""
        return self._original[0]

    def forward(self, x):
        """Any tensor; the same one, or its activation."""
        if not self.shared:
            return x
        if isinstance(x, fx.Proxy):
            return in_graph(self, x)
        for layer, tensor in self.announced.items():
            if tensor is x:
                del self.announced[layer]
                return x
        for tensor in (x, x._base):  # backward hooks pass a view on
            if getattr(tensor, "_iabn_activated_for", None) is self:
                tensor._iabn_activated_for = None
                return x
        return self.original(x)

    def extra_repr(self) -> str:
        kind = "also at other places" if self.shared else "part of the layer before"
        return f"{kind}: {self.original!r}"


class HandOver:
    """Forward hook of a layer in front of a shared AfterABN: marks the layer's output as activated already.

    The mark is on the tensor, not in the module: threads and interrupted passes have nothing in common. torch.compile
    cannot mark an operator's result without breaking the graph, but follows what a module holds.
    """

    def __init__(self, after: AfterABN):
        self.after = after
        self.layer = after.layers
        after.layers += 1

    def __call__(self, layer, _inputs, output):
        if getattr(layer, "_is_replica", False):
            raise RuntimeError(
                "InPlaceABN: this model calls one activation module at several places, which nn.DataParallel's copies "
                "cannot tell apart: use DistributedDataParallel, or to_batchnorm(model)"
            )
        if torch.compiler.is_compiling():
            self.after.announced[self.layer] = output
        else:
            output._iabn_activated_for = self.after
