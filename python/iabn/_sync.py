"""Statistics over all processes of a group: one collective in forward, one in backward; or, with use_peer_memory, an
exchange inside the kernels.

Every process sends {count, mean, M2} per channel, and everybody merges them by Chan, Golub and LeVeque's formula in the
order of the ranks. Backward sums A0, A1, B1, B2 (iabn/kernels/kernels.h) over the processes: d_x follows from the sums
of all, the gradients of the parameters from the process's own, which DistributedDataParallel then averages.
"""

import os
from contextlib import contextmanager
from weakref import WeakKeyDictionary

import torch
import torch.distributed as dist
from torch.autograd.function import once_differentiable
from torch.library import Library

from iabn import _library, _ops


def world_size(group) -> int:
    """Processes to synchronise with; 1 where torch.distributed is not in use."""
    if not (dist.is_available() and dist.is_initialized()):
        return 1
    return dist.get_world_size(group)


@contextmanager
def _explained(what: str, group):
    """Says what this process was doing when a collective failed, and why that happens."""
    try:
        yield
    except RuntimeError as error:
        raise RuntimeError(
            f"{what}: rank {dist.get_rank(group)} of the group of {dist.get_world_size(group)} could not exchange data "
            "with the others. One of them has ended, whose own message tells why, or has not come to this layer within "
            f"the group's timeout. {error}"
        ) from error


def check_layer(name: str, facts: dict, group) -> None:
    """Raises RuntimeError where the processes have come to different layers, and names what differs. Once per layer and
    group: it waits.
    """
    answers = [None] * dist.get_world_size(group)
    with _explained(name, group):
        dist.all_gather_object(answers, facts, group=group)
    mine = dist.get_rank(group)
    for rank, answer in enumerate(answers):
        if answer != facts:
            here, there = (
                ", ".join(f"{key} {values.get(key)}" for key in facts if facts[key] != answer.get(key))
                for values in (facts, answer)
            )
            raise RuntimeError(
                f"{name}: rank {mine} of the group has {here}, rank {rank} has {there}: every process must call the "
                "same layers in the same order"
            )


def merge(gathered: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """[world, 3, C] of count, mean, M2 to the same of all processes together, each [C]. Processes may be empty."""
    counts, means, m2 = gathered.double().unbind(1)
    count = counts.sum(0)
    mean = (counts * means).sum(0) / count.clamp_min(1)
    return count, mean, (m2 + counts * (means - mean).square()).sum(0)


# By group: its CUDA device and the argument `peers` of the operators (iabn/ops/schemas.cpp).
_peers: WeakKeyDictionary[dist.ProcessGroup, tuple[int, list[int]]] = WeakKeyDictionary()
_CARD_BYTES = 128
_MOST_PROCESSES = 8
_MOST_CHANNELS = 8192


def use_peer_memory(group=None, *, spare_multiprocessors: int = 8, timeout: float = 600.0) -> str:
    """Lets the synchronised layers of `group` (None: the default group) exchange their sums inside their kernels,
    through memory that the GPUs of one host share: one launch per direction instead of a collective between several.

    All processes of the group call it, before the layers' first pass, each with its GPU as the current device. It
    needs 2 to 8 of them on one host, each with a GPU of its own that reaches the others' memory, and NCCL_MAX_CTAS in
    the environment, set before the first group is made. Where that can't be, nothing changes. It applies to eager
    layers on that device with float32, float16 or bfloat16 x and at most 8192 channels; others, and compiled ones, go
    on through collectives.

    The kernels of several processes wait for each other, so launches of a device must run one after the other. Eager
    ones do; replay CUDA graphs that hold such layers on the stream of their eager passes, or order them by events. All
    processes must run a layer eager, or all compiled.

    spare_multiprocessors: at least 1; what the layers leave to all other kernels together that wait for another
        process: those of NCCL, one communicator at a time, with at most NCCL_MAX_CTAS blocks. With more, both may wait
        until the timeout.
    timeout: seconds, from 0.001 to 1e6, after which a kernel that waits for another process ends with a CUDA error.

    Returns why it can't be, the same text in all processes; empty: it is done. Raises ValueError for options out of
    range, and RuntimeError where a process doesn't come.
    """
    if spare_multiprocessors < 1 or not 1e-3 <= timeout <= 1e6:
        raise ValueError(
            "use_peer_memory: spare_multiprocessors must be at least 1 and timeout from 0.001 to 1e6, got "
            f"{spare_multiprocessors} and {timeout}"
        )
    rank, size = dist.get_rank(group), dist.get_world_size(group)
    if not 2 <= size <= _MOST_PROCESSES:
        return f"the group has {size} processes, 2 to {_MOST_PROCESSES} can"

    def agreed(own):
        answers = [None] * size
        with _explained("use_peer_memory", group):
            dist.all_gather_object(answers, own, group=group)
        return answers

    own, card, device, reason = 0, torch.zeros(_CARD_BYTES, dtype=torch.uint8), 0, ""
    limit = os.environ.get("NCCL_MAX_CTAS", "")
    if not torch.cuda.is_available():
        reason = f"rank {rank}: no CUDA GPU, and it is through their memory that the layers would exchange sums"
    elif not (limit.isdigit() and 1 <= int(limit) <= spare_multiprocessors):
        reason = f"rank {rank}: NCCL_MAX_CTAS must be from 1 to {spare_multiprocessors}, is {limit or 'not set'}"
    else:
        try:
            _library.require(torch.device("cuda"))
            device = torch.cuda.current_device()
            own = torch.ops.iabn.peer_area.default(card, device, _MOST_CHANNELS, size)
        except RuntimeError as error:
            reason = f"rank {rank}: {error}"
    cards, reasons = zip(*agreed((card.numpy().tobytes(), reason)), strict=True)
    if any(reasons):
        return next(filter(None, reasons))
    areas = []
    for other, bytes_ in enumerate(cards):
        card = torch.frombuffer(bytearray(bytes_), dtype=torch.uint8)
        try:
            areas.append(own if other == rank else torch.ops.iabn.peer_open.default(card, device))
        except RuntimeError as error:
            areas.append(0)
            reason = reason or f"rank {rank}: {error}"
        if not areas[-1]:
            reason = reason or (
                f"rank {rank} and rank {other} are on different hosts, share a GPU, or their GPUs can't reach each "
                "other's memory"
            )
    reasons = agreed(reason)
    if not any(reasons):
        peers = [rank, spare_multiprocessors, _MOST_CHANNELS, int(timeout * 1000), *areas]
        _peers[_or_default(group)] = (device, peers)
    return next(filter(None, reasons), "")


def _or_default(group):
    return dist.group.WORLD if group is None else group


def _peers_of(x, group) -> list[int] | None:
    """None: through the group's collectives."""
    if not _peers or not x.is_cuda or x.dtype == torch.float64 or x.shape[1] > _MOST_CHANNELS:
        return None
    device, peers = _peers.get(_or_default(group), (None, None))
    return peers if device == x.device.index else None


def _gradients(ctx, d_x, d_weight, d_bias, weight, bias):
    """What autograd wants for x, weight and bias, and nothing for the other arguments."""
    needs_x, needs_weight, needs_bias, *others = ctx.needs_input_grad
    return (
        d_x if needs_x else None,
        d_weight.to(weight.dtype) if needs_weight else None,
        d_bias.to(bias.dtype) if needs_bias else None,
        *(None for _ in others),
    )


class InPlaceABNSyncPeers(torch.autograd.Function):
    """z over x from the statistics of all processes, exchanged inside the kernels."""

    @staticmethod
    def forward(ctx, x, weight, bias, running, options, peers):
        _, var, count = torch.ops.iabn.abn_peer_forward_.default(x, weight, bias, *running, *options, peers)
        ctx.mark_dirty(x)
        ctx.save_for_backward(x.detach() if x._is_view() else x, count, var, weight, bias)
        ctx.options, ctx.peers = options, peers
        return x

    @staticmethod
    def backward(ctx, d_z):
        if torch.is_grad_enabled():
            raise RuntimeError(_ops.NO_DOUBLE_BACKWARD)
        z, count, var, weight, bias = ctx.saved_tensors
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        d_x, d_weight, d_bias = torch.ops.iabn.abn_peer_backward.default(
            z, d_z, count, var, weight, bias, *ctx.options, needs_x, needs_weight or needs_bias, ctx.peers
        )
        return _gradients(ctx, d_x, d_weight, d_bias, weight, bias)


class InPlaceABNSync(torch.autograd.Function):
    """z over x from the statistics of all processes. PyTorch's errors name the class."""

    @staticmethod
    def forward(ctx, x, weight, bias, mean, var, count, eps, kind, param, gamma, group):
        torch.ops.iabn.abn_apply_.default(x, mean, var, weight, bias, eps, kind, param, gamma)
        ctx.mark_dirty(x)
        ctx.save_for_backward(x.detach() if x._is_view() else x, var, weight, bias, count)
        ctx.options = (eps, kind, param, gamma)
        ctx.group = group
        return x

    @staticmethod
    def backward(ctx, d_z):
        if torch.is_grad_enabled():
            raise RuntimeError(_ops.NO_DOUBLE_BACKWARD)
        z, var, weight, bias, count = ctx.saved_tensors
        eps, kind, param, gamma = ctx.options
        local = torch.ops.iabn.abn_backward_reduce.default(z, d_z, bias, kind, param)
        sums = local.clone()
        with _explained(f"inplace_abn_sync, backward of {sums.shape[1]} channels", ctx.group):
            dist.all_reduce(sums, group=ctx.group)
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        d_x = d_weight = d_bias = None
        if needs_x:
            d_x = torch.ops.iabn.abn_backward_apply.default(
                z, d_z, sums, count, var, weight, bias, eps, kind, param, gamma
            )
        if needs_weight or needs_bias:
            d_weight, d_bias = torch.ops.iabn.abn_backward_parameters.default(local, sums, count, weight, eps, gamma)
        return _gradients(ctx, d_x, d_weight, d_bias, weight, bias)


def synchronised(x, weight, bias, running, options, group):
    """Training over all processes. No wait of the host for the device.

    running: (running_mean, running_var, num_batches_tracked, momentum); they stay as they are where all processes
    together have fewer than two values.
    options: (eps, kind, param, gamma) of the operators.
    """
    if peers := _peers_of(x, group):
        return InPlaceABNSyncPeers.apply(x, weight, bias, running, options, peers)
    with torch.no_grad():
        packed = torch.ops.iabn.abn_statistics.default(x.detach())
        gathered = packed.new_empty((dist.get_world_size(group) * 3, packed.shape[1]))
        with _explained(f"inplace_abn_sync, forward of {packed.shape[1]} channels", group):
            dist.all_gather_into_tensor(gathered, packed, group=group)
        mean, var, count = torch.ops.iabn.abn_merge.default(gathered, *running)
    return InPlaceABNSync.apply(x, weight, bias, mean, var, count, *options, group)


class _Compiled(torch.autograd.Function):
    """Compiled: autograd of torch.ops.iabn.abn_sync, traced into the graph with PyTorch's functional collectives."""

    @staticmethod
    def forward(ctx, x, weight, bias, eps, kind, param, gamma, world, group, _revision):
        z = x.clone()  # the only use of x
        packed = torch.ops.iabn.abn_statistics.default(z)
        gathered = torch.ops._c10d_functional.all_gather_into_tensor.default(packed, world, group)
        gathered = torch.ops._c10d_functional.wait_tensor.default(gathered)
        count, mean, m2 = merge(gathered.view(world, *packed.shape))
        var, samples = (m2 / count.clamp_min(1)).to(packed.dtype), count[0].to(packed.dtype)
        torch.ops.iabn.abn_apply_.default(z, mean.to(packed.dtype), var, weight, bias, eps, kind, param, gamma)
        ctx.mark_non_differentiable(count, mean, m2)
        ctx.save_for_backward(z, var, weight, bias, samples)
        ctx.options = (eps, kind, param, gamma)
        ctx.group = group
        return z, count, mean, m2

    @staticmethod
    @once_differentiable
    def backward(ctx, d_z, *_):
        z, var, weight, bias, samples = ctx.saved_tensors
        eps, kind, param, gamma = ctx.options
        local = torch.ops.iabn.abn_backward_reduce.default(z, d_z, bias, kind, param)
        sums = torch.ops._c10d_functional.all_reduce.default(local, "sum", ctx.group)
        sums = torch.ops._c10d_functional.wait_tensor.default(sums)
        d_x = torch.ops.iabn.abn_backward_apply.default(
            z, d_z, sums, samples, var, weight, bias, eps, kind, param, gamma
        )
        d_weight, d_bias = torch.ops.iabn.abn_backward_parameters.default(local, sums, samples, weight, eps, gamma)
        return (
            d_x,
            None if weight is None else d_weight.to(weight.dtype),
            None if bias is None else d_bias.to(bias.dtype),
            *(None,) * 7,
        )


def compiled(x, weight, bias, running, options, group):
    """`synchronised` for a compiler: nothing is written but the running statistics."""
    group = dist.group.WORLD if group is None else group
    world = dist.get_world_size(group)
    z, count, mean, m2 = torch.ops.iabn.abn_sync(x, weight, bias, *options, world, group.group_name, _ops.REVISION)
    update_running(count, mean, m2, *running)
    return z


def _fake(x, *_):
    return (_ops.like(x), *(x.new_empty((x.shape[1],), dtype=torch.float64) for _ in range(3)))


def register() -> Library:
    """Once, after the libraries are loaded; the registration ends with the result."""
    library = Library("iabn", "FRAGMENT")
    library.define(
        "abn_sync(Tensor x, Tensor? weight, Tensor? bias, float eps, int kind, float param, int gamma, int world, "
        "str group, int revision) -> (Tensor, Tensor, Tensor, Tensor)",
        tags=_ops.TAGS,
    )
    torch.library.register_fake("iabn::abn_sync", _fake, lib=library)
    for key in ("Autograd", "CompositeExplicitAutograd"):
        library.impl("abn_sync", lambda *arguments: _Compiled.apply(*arguments), key)
    return library


@torch.no_grad()
def update_running(count, mean, m2, running_mean, running_var, batches, momentum) -> None:
    """Running statistics, each may be None. Nothing where all processes together have fewer than two values."""
    enough = count > 1
    if batches is not None:
        batches.add_(enough[0].to(batches.dtype))
    if running_mean is None:
        return
    factor = enough.double() * (1.0 / batches.double().clamp_min(1) if momentum is None else momentum)
    for running, batch in ((running_mean, mean), (running_var, m2 / (count - 1).clamp_min(1))):
        running.add_(((batch - running) * factor).to(running.dtype))


_registered = register() if _library.loaded else None
