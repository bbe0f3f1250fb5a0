"""The operators as PyTorch's compilers see them (torch.ops.iabn): shapes of results, tags, and autograd of `abn`.

Two routes to the same kernels, because no single one is right everywhere:
  eager      InPlaceABN marks x as overwritten, so that PyTorch's version counter catches whoever reads it later.
  compiled   torch.ops.iabn.abn is functional, with a clone of x inside, which the compiler removes where x is dead.
             A mutating operator or mark_dirty gives silently wrong gradients where x is an input of a compiled graph.
"""

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.autograd.function import once_differentiable
from torch.library import Library

from iabn import _library

ACTIVATIONS = {"identity": 0, "leaky_relu": 1, "elu": 2, "relu": 3}  # iabn::Activation
GAMMAS = {"signed": 0, "legacy": 1}  # iabn::kernels::GammaMode
# flexible_layout: without it the compiler would copy channels-last tensors around every layer.
TAGS = (torch.Tag.flexible_layout, torch.Tag.pt2_compliant_tag)
# An argument of every compiled layer. PyTorch's cache on disk knows graphs by their operators and arguments alone: who
# changes what the autograd functions compute must count this up, or users of the last release keep its gradients.
REVISION = 1

NO_DOUBLE_BACKWARD = (
    "inplace_abn: double backward is not supported: call backward without create_graph=True, or use ABN "
    "(BatchNorm, then the activation, not in place)"
)


class InPlaceABN(torch.autograd.Function):
    """Eager: z over x. Keeps z, var, weight and bias. PyTorch's errors name the class."""

    @staticmethod
    def forward(ctx, x, weight, bias, running_mean, running_var, batches, training, momentum, eps, kind, param, gamma):
        if training:
            _, var = torch.ops.iabn.abn_forward_.default(
                x, weight, bias, running_mean, running_var, batches, momentum, eps, kind, param, gamma
            )
        else:
            torch.ops.iabn.abn_apply_.default(x, running_mean, running_var, weight, bias, eps, kind, param, gamma)
            var = running_var.clone()  # a training pass before backward would change it
        ctx.mark_dirty(x)
        # A view's node would be kept alive by its own saved output.
        ctx.save_for_backward(x.detach() if x._is_view() else x, var, weight, bias)
        ctx.options = (training, eps, kind, param, gamma)
        return x

    @staticmethod
    def backward(ctx, d_z):
        if torch.is_grad_enabled():
            raise RuntimeError(NO_DOUBLE_BACKWARD)
        z, var, weight, bias = ctx.saved_tensors
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        d_x, d_weight, d_bias = torch.ops.iabn.abn_backward.default(
            z, d_z, var, weight, bias, *ctx.options, needs_x, needs_weight or needs_bias
        )
        return (
            d_x if needs_x else None,
            d_weight.to(weight.dtype) if needs_weight else None,
            d_bias.to(bias.dtype) if needs_bias else None,
            *(None,) * 9,
        )


class _Functional(torch.autograd.Function):
    """Compiled: autograd of torch.ops.iabn.abn, traced into the graph."""

    @staticmethod
    def forward(ctx, x, weight, bias, eps, kind, param, gamma, _revision):
        z = x.clone()  # the only use of x
        mean, var = torch.ops.iabn.abn_forward_.default(z, weight, bias, None, None, None, 0.0, eps, kind, param, gamma)
        ctx.mark_non_differentiable(mean, var)
        ctx.save_for_backward(z, var, weight, bias)
        ctx.options = (eps, kind, param, gamma)
        return z, mean, var

    @staticmethod
    @once_differentiable
    def backward(ctx, d_z, _d_mean, _d_var):
        z, var, weight, bias = ctx.saved_tensors
        d_x, d_weight, d_bias = torch.ops.iabn.abn_backward.default(
            z, d_z, var, weight, bias, True, *ctx.options, True, True
        )
        return (
            d_x,
            None if weight is None else d_weight.to(weight.dtype),
            None if bias is None else d_bias.to(bias.dtype),
            *(None,) * 5,
        )


def _accumulate_dtype(x):
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _channels(x, rows=None):
    size = (x.shape[1],) if rows is None else (rows, x.shape[1])
    return x.new_empty(size, dtype=_accumulate_dtype(x))


def like(x):
    """The dense layout that the kernels give a tensor like x: see empty_dense in iabn/ops/tensors.h."""
    if not x.is_contiguous() and x.shape[1] > 1 and x.stride(1) == 1:
        return x.new_empty((x.shape[0], *x.shape[2:], x.shape[1])).movedim(-1, 1)
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _backward_fake(z, d_z, var, weight, bias, training, eps, kind, param, gamma, needs_d_x, needs_d_parameters):
    channels = z.shape[1] if needs_d_parameters else 0
    d_x = like(z) if needs_d_x else z.new_empty((0,))
    return d_x, *(z.new_empty((channels,), dtype=_accumulate_dtype(z)) for _ in range(2))


_FAKES = {
    "abn": lambda x, *_: (like(x), _channels(x), _channels(x)),
    "abn_forward_": lambda x, *_: (_channels(x), _channels(x)),
    "abn_statistics": lambda x: _channels(x, 3),
    "abn_merge": lambda gathered, *_: tuple(gathered.new_empty(size) for size in [(gathered.shape[1],)] * 2 + [()]),
    "abn_apply_": lambda *_: None,
    "abn_backward": _backward_fake,
    "abn_peer_forward_": lambda x, *_: (_channels(x), _channels(x), x.new_empty((), dtype=torch.float32)),
    "abn_peer_backward": lambda z, d_z, count, var, weight, bias, eps, kind, param, gamma, needs_d_x, needs_d, _: (
        _backward_fake(z, d_z, var, weight, bias, True, eps, kind, param, gamma, needs_d_x, needs_d)
    ),
    "abn_backward_reduce": lambda z, *_: _channels(z, 4),
    "abn_backward_apply": lambda z, *_: like(z),
    "abn_backward_parameters": lambda local_sums, *_: (
        local_sums.new_empty((local_sums.shape[1],)),
        local_sums.new_empty((local_sums.shape[1],)),
    ),
}


def _without_real_tensors(name, fake):
    """A single tensor on "meta" brings a call here, where nothing would be computed: x would be its own result."""

    def checked(x, *others):
        if not x.is_meta and not isinstance(x, FakeTensor):
            raise RuntimeError(
                f"{name}: x is on {x.device}, but a parameter or buffer of the layer is on meta, without values: load "
                "them with load_state_dict(..., assign=True), or call layer.to_empty(device=...) and reset_parameters()"
            )
        return fake(x, *others)

    return checked


def register() -> Library | None:
    """Once, after the libraries are loaded; the registrations end with the result."""
    missing = [name for name in _FAKES if not hasattr(torch.ops.iabn, name)]
    if missing:
        return _library.reject(missing[0])
    library = Library("iabn", "FRAGMENT")
    for name, fake in _FAKES.items():
        torch.library.register_fake(f"iabn::{name}", _without_real_tensors(name, fake), lib=library)
        getattr(torch.ops.iabn, name).default.tags.extend(TAGS)
    library.impl("abn", lambda *arguments: _Functional.apply(*arguments), "Autograd")
    return library


_library.load()
_registered = register() if _library.loaded else None
