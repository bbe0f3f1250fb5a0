"""In-Place Activated BatchNorm as a function. Formulas: docs/design/1-maths.md in the repository."""

import torch
import torch.nn.functional as F
from torch import Tensor

from iabn import _library, _ops, _sync

_is_compiling = torch.compiler.is_compiling
_is_tracing = torch._C._is_tracing  # torch.jit.trace, and torch.onnx.export with dynamo=False
_in_transform = torch._C._are_functorch_transforms_active


def activate(y: Tensor, activation: str, param: float) -> Tensor:
    """The activation alone, as plain PyTorch."""
    if activation == "leaky_relu":
        return F.leaky_relu(y, param)
    if activation == "elu":
        return F.elu(y, param)
    if activation == "relu":
        return F.relu(y)
    check_activation(activation, param)
    return y


def check_activation(activation: str, param: float) -> None:
    """Raises ValueError for a name that is none, TypeError for what is no name or no number."""
    if activation not in _ops.ACTIVATIONS:
        names = ", ".join(f'"{name}"' for name in _ops.ACTIVATIONS)
        if not isinstance(activation, str):
            kind = type(activation).__name__
            raise TypeError(f"activation must be given by its name as a string, one of {names}, got a {kind}")
        raise ValueError(f'activation must be one of {names}, got "{activation}"')
    if not isinstance(param, (int, float)):
        raise TypeError(f"activation_param must be a number, got {type(param).__name__}")


def check_gamma(gamma: str) -> None:
    """Raises ValueError for a mode that is none."""
    if gamma not in _ops.GAMMAS:
        raise ValueError(f'gamma must be "signed" or "legacy", got "{gamma}"')


def gamma_of(weight: Tensor | None, gamma: str, eps: float) -> Tensor | None:
    """gamma of a layer: its weight, or |weight| + eps in the original package's legacy mode."""
    return weight if weight is None or gamma == "signed" else weight.abs() + eps


def evaluate(x: Tensor, weight, bias, running_mean, running_var, eps, activation, param, gamma) -> Tensor:
    """The layer with constant statistics, out of place, in plain PyTorch: exports as standard operators."""
    y = F.batch_norm(x, running_mean, running_var, gamma_of(weight, gamma, eps), bias, False, 0.0, eps)
    return activate(y, activation, param)


def in_backward() -> bool:
    """Inside a backward pass, where as a rule activation checkpointing alone calls a layer: a recomputation."""
    return torch._C._current_graph_task_id() != -1


def _overwrite_problem(x: Tensor) -> str:
    """What PyTorch would refuse, but only after x has been overwritten, or in backward."""
    if torch.autograd.forward_ad._current_level >= 0:
        return "may have a forward-mode derivative"
    if not torch.is_grad_enabled():
        inference = x.is_inference() and not torch.is_inference_mode_enabled()
        return "is an inference tensor, outside inference_mode" if inference else ""
    if x._is_view():
        base = x._base
        if base.requires_grad and base.is_leaf:
            return "is a view of a leaf tensor that requires grad"
        if not x.requires_grad:
            return "is a view of a tensor without gradient, which would become part of the graph"
    producer = x.grad_fn
    if producer is None:
        if x.requires_grad:
            return "is a leaf tensor that requires grad"
        return "is an inference tensor, outside inference_mode" if x.is_inference() else ""
    if hasattr(type(producer), "_saved_result"):
        return f"is the result of {producer.name()}, which needs it for its own gradient"
    if producer.name().startswith(_SHARED_RESULTS):
        return f"is the result of {producer.name()}, which does not allow it"
    return ""


# Views of one call among several, and modules with backward hooks.
_SHARED_RESULTS = ("SplitBackward", "SplitWithSizesBackward", "UnbindBackward", "BackwardHookFunctionBackward")


def check_overwrite(x: Tensor) -> None:
    """Raises RuntimeError for a tensor that must not be overwritten."""
    problem = _overwrite_problem(x)
    if problem:
        raise RuntimeError(
            f"inplace_abn: x {problem}, so it must not be overwritten: pass x.clone(), use copy_input=True, or ABN"
        )


def check_training(activation: str, param: float) -> None:
    """Raises ValueError for an activation that cannot be inverted."""
    if activation == "relu" or (activation != "identity" and not param > 0):
        raise ValueError(
            f"inplace_abn: training needs an activation that can be inverted, got {activation} with {param}: use "
            "leaky_relu with a slope above 0, elu with an alpha above 0, identity, or ABN, which is not in place"
        )


def _check_frozen(activation: str, param: float) -> None:
    if torch.is_grad_enabled() and (
        (activation == "elu" and not param > 0) or (activation == "leaky_relu" and param < 0)
    ):
        raise ValueError(
            f"inplace_abn: {activation} with {param} has no gradients from its output: run under torch.no_grad(), or "
            "use ABN"
        )


def check_arguments(training, running_mean, running_var, batches, momentum, activation, param, gamma) -> None:
    """Raises ValueError or TypeError; the same for every route."""
    check_activation(activation, param)
    check_gamma(gamma)
    if (running_mean is None) != (running_var is None):
        raise ValueError("inplace_abn: running_mean and running_var must be given together, or neither")
    if not training:
        if running_mean is None:
            raise ValueError("inplace_abn: evaluation (training=False) needs running_mean and running_var")
        return
    check_training(activation, param)
    if momentum is None:
        if running_mean is not None and batches is None:
            raise ValueError("inplace_abn: momentum None (cumulative average) needs num_batches_tracked")
    elif not 0 <= momentum <= 1:
        raise ValueError(f"inplace_abn: momentum must be between 0 and 1, or None, got {momentum}")


def inplace_abn(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool = True,
    momentum: float | None = 0.1,
    eps: float = 1e-5,
    activation: str = "leaky_relu",
    activation_param: float = 0.01,
    *,
    gamma: str = "signed",
    num_batches_tracked: Tensor | None = None,
) -> Tensor:
    """z = act(gamma * (x - mean)/sqrt(var + eps) + beta), written over x; returns x. x is dead for everyone else.

    x: [N, C, ...] with any number of trailing dimensions; float32, float64, float16, bfloat16; CPU or CUDA; contiguous
        and channels-last at full speed, any other layout through a copy.
    weight, bias: [C] or None; float32 (float64 for float64 x) or x's dtype.
    running_mean, running_var: [C] or None; updated in training with `momentum` (None: cumulative average, which needs
        num_batches_tracked), the statistics in evaluation.
    activation: "leaky_relu" (activation_param is the slope), "elu" (alpha; nn.ELU's default is 1.0), "identity", and in
        evaluation "relu".
    gamma: "signed", BatchNorm's, or "legacy", |weight| + eps as in the original package.

    Backward keeps z, so activation memory is halved where a convolution follows, which keeps z anyway. Under
    torch.compile x mostly keeps its old value, which is no guarantee: past the recompile limit the layer runs eager.
    Evaluation under a compiler or tracer is plain PyTorch. A recomputation by activation checkpointing doesn't update
    the running statistics again (inside what is compiled, or without a compiler); neither does any other call inside a
    backward pass. A gamma of exactly 0 has gradient 0, in training and in evaluation: it never trains.

    Raises ValueError for a bad activation, RuntimeError for everything that the kernels refuse; the message says what
    to do. Double backward and torch.func transforms are refused.
    """
    check_arguments(
        training, running_mean, running_var, num_batches_tracked, momentum, activation, activation_param, gamma
    )
    compiling = _is_compiling()
    if not training and (compiling or _is_tracing() or not _library.supports(x.device)):
        return evaluate(x, weight, bias, running_mean, running_var, eps, activation, activation_param, gamma)

    kind, mode = _ops.ACTIVATIONS[activation], _ops.GAMMAS[gamma]
    if compiling:
        _library.require(x.device)
        z, mean, var = torch.ops.iabn.abn(x, weight, bias, eps, kind, float(activation_param), mode, _ops.REVISION)
        if running_mean is not None:
            _update_running(x, mean, var, running_mean, running_var, num_batches_tracked, momentum)
        elif num_batches_tracked is not None:
            num_batches_tracked.add_(1)
        return z

    if _in_transform():
        raise RuntimeError("inplace_abn: torch.func transforms (grad, vmap, ...) cannot overwrite x: use ABN there")
    _library.require(x.device)
    check_overwrite(x)
    if not training:
        _check_frozen(activation, activation_param)
    elif in_backward():  # the statistics have been updated
        running_mean = running_var = num_batches_tracked = None
        momentum = 0.0
    return _ops.InPlaceABN.apply(
        x,
        weight,
        bias,
        running_mean,
        running_var,
        num_batches_tracked,
        training,
        momentum,
        eps,
        kind,
        activation_param,
        mode,
    )


@torch.no_grad()
def _update_running(x, mean, var, running_mean, running_var, num_batches_tracked, momentum) -> None:
    """As the fused operator does; the compiler makes it part of the graph's epilogue."""
    if num_batches_tracked is not None:
        num_batches_tracked.add_(1)
    count = x.numel() // x.shape[1]
    factor = 1.0 / num_batches_tracked.to(mean.dtype) if momentum is None else momentum
    for running, batch in ((running_mean, mean), (running_var, var * (count / (count - 1)))):
        running.add_(((batch - running) * factor).to(running.dtype))


def inplace_abn_sync(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool = True,
    momentum: float | None = 0.1,
    eps: float = 1e-5,
    activation: str = "leaky_relu",
    activation_param: float = 0.01,
    group=None,
    *,
    gamma: str = "signed",
    num_batches_tracked: Tensor | None = None,
) -> Tensor:
    """inplace_abn with statistics over all processes of `group` (None: the default group).

    All of them must call it in the same order with the same number of channels and dtype, and all must run backward
    through it; a batch may be empty. A process that doesn't, for instance one in evaluation, leaves the others waiting
    until the group's timeout. Gradients of weight and bias are the process's own, d_x is that of the whole batch. In
    evaluation and in a single process the same as inplace_abn.
    """
    if not training or _sync.world_size(group) == 1:
        return inplace_abn(
            x,
            weight,
            bias,
            running_mean,
            running_var,
            training,
            momentum,
            eps,
            activation,
            activation_param,
            gamma=gamma,
            num_batches_tracked=num_batches_tracked,
        )
    check_arguments(True, running_mean, running_var, num_batches_tracked, momentum, activation, activation_param, gamma)
    _library.require(x.device)
    options = (eps, _ops.ACTIVATIONS[activation], float(activation_param), _ops.GAMMAS[gamma])
    running = (running_mean, running_var, num_batches_tracked, momentum)
    if _is_compiling():
        return _sync.compiled(x, weight, bias, running, options, group)
    check_overwrite(x)
    if in_backward():  # the statistics have been updated
        running = (None, None, None, momentum)
    return _sync.synchronised(x, weight, bias, running, options, group)
