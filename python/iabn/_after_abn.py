"""What convert() leaves where an activation stood that the layer before it now applies."""

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
        if getattr(x, "_iabn_activated_for", None) is self:
            x._iabn_activated_for = None
            return x
        return self.original(x)

    def extra_repr(self) -> str:
        kind = "also at other places" if self.shared else "part of the layer before"
        return f"{kind}: {self.original!r}"


class HandOver:
    """Forward hook of a layer in front of a shared AfterABN: marks the layer's output as activated already.

    The mark is on the tensor, not in the module: threads and interrupted passes have nothing in common, and a copy of
    the model has no tensors of its passes.
    """

    def __init__(self, after: AfterABN):
        self.after = after

    def __call__(self, layer, _inputs, output):
        if getattr(layer, "_is_replica", False):
            raise RuntimeError(
                "InPlaceABN: this model calls one activation module at several places, which nn.DataParallel's copies "
                "cannot tell apart: use DistributedDataParallel, or to_batchnorm(model)"
            )
        output._iabn_activated_for = self.after
