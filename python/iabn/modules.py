"""Modules: ABN (BatchNorm, then the activation; not in place), InPlaceABN and InPlaceABNSync (z over x)."""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from iabn import _sync
from iabn.functional import activate, check_activation, check_gamma, inplace_abn, inplace_abn_sync


def in_graph(module: nn.Module, x: fx.Proxy) -> fx.Proxy:
    """Under symbolic tracing: one call of the module, as of PyTorch's own layers."""
    return x.tracer.create_proxy("call_module", x.tracer.path_of_module(module), (x,), {})


class ABN(nn.Module):
    """BatchNorm followed by the activation, out of place: the input stays usable. Any number of trailing dimensions.

    num_features: C of the input [N, C, ...]. momentum None: cumulative average. activation: "leaky_relu" (with
    activation_param as slope), "elu" (alpha, 0.01 unless given; nn.ELU has 1.0), "relu", "identity". Parameters and
    buffers have BatchNorm's names, so a state_dict moves freely between BatchNorm, ABN and InPlaceABN.

    Raises ValueError for a bad argument; in forward, ValueError for a wrong shape.
    """

    weight: Tensor | None
    bias: Tensor | None
    running_mean: Tensor | None
    running_var: Tensor | None
    num_batches_tracked: Tensor | None

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        activation: str = "leaky_relu",
        activation_param: float = 0.01,
        device=None,
        dtype=None,
    ):
        super().__init__()
        if num_features < 1:
            raise ValueError(f"num_features must be positive, got {num_features}")
        if momentum is not None and not 0 <= momentum <= 1:
            raise ValueError(f"momentum must be between 0 and 1, or None for a cumulative average, got {momentum}")
        check_activation(activation, activation_param)
        self.num_features = num_features
        self.eps = eps
        self.momentum = momentum
        self.affine = affine
        self.track_running_stats = track_running_stats
        self.activation = activation
        self.activation_param = activation_param
        floats = {"device": device, "dtype": dtype}
        for name in ("weight", "bias"):
            self.register_parameter(name, nn.Parameter(torch.empty(num_features, **floats)) if affine else None)
        for name in ("running_mean", "running_var"):
            self.register_buffer(name, torch.empty(num_features, **floats) if track_running_stats else None)
        counter = torch.tensor(0, dtype=torch.long, device=device) if track_running_stats else None
        self.register_buffer("num_batches_tracked", counter)
        self.reset_parameters()

    def reset_running_stats(self) -> None:
        """Mean 0, variance 1, no batches."""
        if self.running_mean is not None:
            self.running_mean.zero_()
            self.running_var.fill_(1)
            self.num_batches_tracked.zero_()

    def reset_parameters(self) -> None:
        """Also weight 1 and bias 0."""
        self.reset_running_stats()
        if self.weight is not None:
            nn.init.ones_(self.weight)
            nn.init.zeros_(self.bias)

    def _check_input(self, x: Tensor) -> None:
        if x.dim() < 2 or x.shape[1] != self.num_features:
            raise ValueError(
                f"{type(self).__name__}: x must have shape [N, {self.num_features}, ...], got {list(x.shape)}"
            )

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, ...] to a tensor of the same shape and dtype."""
        if type(x) is not Tensor and isinstance(x, fx.Proxy):
            return in_graph(self, x)
        self._check_input(x)
        batch_statistics = self.training or self.running_mean is None
        momentum = self.momentum
        if self.training and self.running_mean is not None:
            self.num_batches_tracked.add_(1)
            if momentum is None:
                momentum = 1.0 / float(self.num_batches_tracked)
        y = F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, batch_statistics, momentum or 0.0, self.eps
        )
        return activate(y, self.activation, self.activation_param)

    def extra_repr(self) -> str:
        text = (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}, "
            f"track_running_stats={self.track_running_stats}, activation={self.activation}"
        )
        if self.activation in ("leaky_relu", "elu"):
            text += f"[{self.activation_param}]"
        return text

    def _load_from_state_dict(self, state_dict, prefix, metadata, strict, missing_keys, *rest):
        # Older checkpoints have no counter. One on meta would stay there where the others are assigned.
        key = prefix + "num_batches_tracked"
        if self.num_batches_tracked is not None and key not in state_dict:
            counter, mean = self.num_batches_tracked.detach(), state_dict.get(prefix + "running_mean")
            if counter.is_meta and mean is not None:
                state_dict[key] = torch.zeros((), dtype=counter.dtype, device=mean.device)
            else:
                state_dict[key] = counter.clone()
        super()._load_from_state_dict(state_dict, prefix, metadata, strict, missing_keys, *rest)


class InPlaceABN(ABN):
    """In-Place Activated BatchNorm: forward writes its output over its input, and backward keeps the output alone.

    Arguments as ABN, and gamma: "signed", BatchNorm's, or "legacy", |weight| + eps as in the original package. Training
    needs an activation that can be inverted: not relu, and activation_param above 0. A gamma of exactly 0 never trains.

    The input is dead afterwards, in evaluation too: who reads it later gets the output, and nothing raises. Where
    others need it as well (a skip connection), copy_input=True works on a copy: backward still keeps the output alone,
    so the input is freed as soon as the others are done with it.
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        activation: str = "leaky_relu",
        activation_param: float = 0.01,
        device=None,
        dtype=None,
        *,
        gamma: str = "signed",
        copy_input: bool = False,
    ):
        check_gamma(gamma)
        super().__init__(
            num_features, eps, momentum, affine, track_running_stats, activation, activation_param, device, dtype
        )
        self.gamma = gamma
        self.copy_input = copy_input

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, ...]; returns x, overwritten. Under torch.compile mostly a tensor of its own."""
        if type(x) is not Tensor and isinstance(x, fx.Proxy):
            return in_graph(self, x)
        buffers = self._buffers
        parameters = self._parameters
        if x.dim() < 2 or x.shape[1] != self.num_features:
            self._check_input(x)
        running_mean = buffers["running_mean"]
        return inplace_abn(
            x.clone() if self.copy_input else x,
            parameters["weight"],
            parameters["bias"],
            running_mean,
            buffers["running_var"],
            self.training or running_mean is None,
            self.momentum,
            self.eps,
            self.activation,
            self.activation_param,
            gamma=self.gamma,
            num_batches_tracked=buffers["num_batches_tracked"],
        )

    def extra_repr(self) -> str:
        text = super().extra_repr()
        text += ", gamma=legacy" if self.gamma == "legacy" else ""
        return text + (", copy_input=True" if self.copy_input else "")


class InPlaceABNSync(InPlaceABN):
    """InPlaceABN whose statistics are taken over all processes of `group` (None: the default group).

    In a single process, in evaluation, or where torch.distributed is not initialised, this is InPlaceABN. Processes may
    have batches of different size, or none at all ([0, C, ...]). Gradients of the parameters are the process's own:
    DistributedDataParallel averages them. Under torch.compile the collectives are part of the graph.

    All processes must call their layers in the same order, and run backward through them (for an empty batch as well).
    Before a layer's first call in a group they compare what they have; RuntimeError names the layer and the ranks where
    that differs. Later differences, such as one process in evaluation, leave the others waiting until the timeout.
    """

    def __init__(self, *arguments, group=None, **options):
        super().__init__(*arguments, **options)
        self.group = group
        self._checked_groups: set[tuple[int, ...]] = set()

    def set_group(self, group) -> None:
        """Synchronises over another process group from now on."""
        self.group = group

    def __getstate__(self):
        """Process groups can be neither copied nor pickled: a copy has the same one, a pickle the default."""
        return {**self.__dict__, "group": None, "_checked_groups": set()}

    def __copy__(self):
        copied = type(self).__new__(type(self))
        copied.__dict__.update(self.__dict__)
        return copied

    def __deepcopy__(self, memo):
        copied = type(self).__new__(type(self))
        memo[id(self)] = copied
        copied.__dict__.update(copy.deepcopy(self.__getstate__(), memo))
        copied.group = self.group
        return copied

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, ...]; returns x, overwritten."""
        if not self.training or _sync.world_size(self.group) == 1 or isinstance(x, fx.Proxy):
            return super().forward(x)
        self._check_input(x)
        needs = [t is not None and t.requires_grad for t in (x, self.weight, self.bias)]
        self._check_processes(str(x.dtype), torch.is_grad_enabled(), *needs)
        return inplace_abn_sync(
            x.clone() if self.copy_input else x,
            self.weight,
            self.bias,
            self.running_mean,
            self.running_var,
            True,
            self.momentum,
            self.eps,
            self.activation,
            self.activation_param,
            self.group,
            gamma=self.gamma,
            num_batches_tracked=self.num_batches_tracked,
        )

    @torch.compiler.assume_constant_result  # a compiler runs it while it traces the layer
    def _check_processes(self, dtype: str, grad_enabled: bool, *needs: bool) -> bool:
        """Before the first collective in a group."""
        members = tuple(torch.distributed.get_process_group_ranks(self.group))
        if members not in self._checked_groups:
            facts = {
                "class": type(self).__name__,
                "num_features": self.num_features,
                "x of dtype": dtype,
                "gradients enabled": grad_enabled,
                "requires_grad of x, weight and bias": needs,
                "track_running_stats": self.running_mean is not None,
                **{
                    name: getattr(self, name) for name in ("eps", "momentum", "activation", "activation_param", "gamma")
                },
            }
            _sync.check_layer(repr(self), facts, self.group)
            self._checked_groups.add(members)
        return True
