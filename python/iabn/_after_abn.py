"""What convert() leaves where an activation stood that the layer before it now applies."""

from torch import nn


class AfterABN(nn.Module):
    """Stands where an activation stood that the layer before it applies now: returns its input.

    shared: the activation is called for other tensors too, and then still activates those that do not come straight
    from one of the layers that took it over (they announce theirs by HandOver).
    """

    def __init__(self, original: nn.Module, shared: bool):
        super().__init__()
        self._original = (original,)  # in a tuple: not a submodule
        self.shared = shared
        self.layers = 0
        self.pending = {}  # by layer: its output, to arrive here activated

    @property
    def original(self) -> nn.Module:
        """The activation that stood here."""
        return self._original[0]

    def forward(self, x):
        """Any tensor; the same one, or its activation."""
        if not self.shared:
            return x
        for layer, tensor in self.pending.items():
            if tensor is x:
                del self.pending[layer]
                return x
        return self.original(x)

    def extra_repr(self) -> str:
        kind = "also at other places" if self.shared else "part of the layer before"
        return f"{kind}: {self.original!r}"


class HandOver:
    """Forward hook of a layer in front of a shared AfterABN: tells it which tensor is activated already."""

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
        self.after.pending[self.layer] = output
