"""The layer as a function, with the original's arguments and gamma."""

import warnings

import torch
import torch.nn.functional as F
from torch import Tensor

import iabn

_warned = False


def activation_name(activation: str) -> str:
    """The oldest generation called the identity "none"."""
    return "identity" if activation == "none" else activation


def is_slope_zero(activation: str, activation_param: float) -> bool:
    """Whether the activation is a ReLU by another name, which loses what an in-place backward needs."""
    return activation_param == 0 and activation in ("leaky_relu", "elu")


def _warn_slope_zero() -> None:
    global _warned
    if not _warned and not torch.compiler.is_compiling():
        _warned = True
        warnings.warn(
            "inplace_abn: activation_param 0 is ReLU, which cannot be inverted: training runs BatchNorm + ReLU, right "
            "but not in place, without the memory gain. Use a slope above 0, such as 0.01",
            stacklevel=3,
        )


def batch_norm_relu(
    x: Tensor, weight, bias, running_mean, running_var, momentum, eps, gamma, num_batches_tracked=None
) -> Tensor:
    """Training with slope 0: x keeps its value."""
    _warn_slope_zero()
    if num_batches_tracked is not None:
        num_batches_tracked.add_(1)
        if momentum is None:
            momentum = 1.0 / float(num_batches_tracked)
    gamma_eff = iabn.functional.gamma_of(weight, gamma, eps)
    return F.batch_norm(x, running_mean, running_var, gamma_eff, bias, True, momentum or 0.0, eps).relu_()


def check_slope_zero_alone(group) -> None:
    """Raises NotImplementedError where BatchNorm + ReLU would need the statistics of several processes."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        world = torch.distributed.get_world_size(group)
        if world > 1:
            raise NotImplementedError(
                f"InPlaceABNSync: activation_param 0 is ReLU, which is not synchronised over {world} processes: use a "
                "slope above 0, such as 0.01, or torch.nn.SyncBatchNorm and ReLU"
            )


def inplace_abn(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
    activation: str = "leaky_relu",
    activation_param: float = 0.01,
    *,
    gamma: str = "legacy",
) -> Tensor:
    """Normalises with |weight| + eps and bias, activates, and returns x, overwritten. As iabn.functional.inplace_abn.

    activation_param 0 in training is BatchNorm + ReLU, not in place, with one warning.
    """
    activation = activation_name(activation)
    if training and is_slope_zero(activation, activation_param):
        return batch_norm_relu(x, weight, bias, running_mean, running_var, momentum, eps, gamma)
    return iabn.functional.inplace_abn(
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
    )


def inplace_abn_sync(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
    activation: str = "leaky_relu",
    activation_param: float = 0.01,
    group=None,
    *,
    gamma: str = "legacy",
) -> Tensor:
    """inplace_abn with statistics over all processes of `group` (None: the default group, or no group at all)."""
    activation = activation_name(activation)
    if training and is_slope_zero(activation, activation_param):
        check_slope_zero_alone(group)
        return batch_norm_relu(x, weight, bias, running_mean, running_var, momentum, eps, gamma)
    return iabn.functional.inplace_abn_sync(
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
        group,
        gamma=gamma,
    )
